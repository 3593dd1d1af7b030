"""What one evaluation does to the rows of the engine's batch: measure, judge, take the next iterate or the next step.

Rows are independent, and everything here is elementwise over them: no loop, no transfer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fpcore.inversion.criteria import Measures, Status, certified_bound, rms
from fpcore.inversion.methods import Method
from fpcore.inversion.schedule import Schedule, per_row
from fpcore.inversion.solvers import Anderson, Chebyshev, Memory, Position, where_row

MARGIN = 1.25
"""What was seen of the contraction rate falls short of it until the iterates differ where f contracts least."""
MAX_RATE_RATIO = 3.0
RATE_FROM_ZERO_NOISE = 0.95
"""The rate for accelerating a step that starts at zero noise (``set_alpha_to_one``), where r_t = 1 says nothing."""


@dataclass(frozen=True)
class State:
    """The rows of the batch: B slots of K paths. ``z`` (B, K, C, h, w) is the iterate, ``base`` (B, C, h, w) is z_{t-1}."""

    z: Tensor
    base: Tensor
    direction: Tensor  # the last d that was evaluated
    direction_before: Tensor  # the one before it
    level: Tensor  # where they were evaluated, see Schedule.level; NaN: none yet
    level_before: Tensor
    anchor: Tensor  # (B, C, h, w): the state before a step that was taken speculatively
    speculative: Tensor  # the step before this one was taken speculatively
    noise: Tensor  # (B, K - 1, C, h, w): where the other paths start from
    step: Tensor
    iteration: Tensor
    last: Tensor  # residual of the last iteration
    z_before: Tensor  # (B, C, h, w): the iterate before, and f there
    f_before: Tensor
    best: Tensor
    best_f: Tensor
    no_improvement: Tensor  # evaluations since the best
    sign_changes: Tensor  # how often the residual changed between rising and falling
    rising: Tensor
    cautious: Tensor  # the accelerated iteration got stuck in this step: go on plainly
    rate_ratio: Tensor  # contraction rate seen lately, as a multiple of r_t
    memory: Memory


class Verdicts(NamedTuple):
    """What one evaluation says of each row, (B,) each, all of the state's dtype so that they travel to the host as one.

    ``status``: a ``Status``. ``intra``, ``inter``, ``bound``, ``rate``: the columns of a record. ``next_step``: the step that the
    row takes next.
    """

    status: Tensor
    intra: Tensor
    inter: Tensor
    bound: Tensor
    rate: Tensor
    next_step: Tensor


@dataclass(frozen=True)
class Constants:
    """Per-step coefficients on the device, in the state's dtype."""

    schedule: Schedule
    phi: Tensor
    psi: Tensor
    rate: Tensor
    solver_rate: Tensor  # what accelerated iteration counts with, see ``RATE_FROM_ZERO_NOISE``
    level: Tensor
    weight: Tensor
    blend: Tensor | None


def constants(schedule: Schedule, method: Method, like: Tensor) -> Constants:
    """The coefficients of ``schedule`` and ``method`` where ``like`` lies."""

    def put(x: Tensor) -> Tensor:
        return x.to(like.device, like.dtype)

    n, blend = len(schedule), None
    if method.blend is not None:
        step, of = torch.arange(n + 1, dtype=torch.float64), method.blend
        inside = (step > of.start * n) & (step < (of.start + of.length) * n) & (step < n)
        blend = put(torch.where(inside, step.new_tensor(of.eta), 1.0))  # two plain numbers would be fp32
    weight = 1 / schedule.signal if method.measures_picture(schedule) else torch.ones(n)
    asked = schedule.as_left() if method.asks == "left" else schedule
    there = asked.to(like.device, like.dtype)
    phi, psi, rate = put(schedule.phi), put(schedule.psi), put(schedule.rate)
    solver_rate = rate if schedule.prediction_type == "flow" else rate.nan_to_num(RATE_FROM_ZERO_NOISE)
    return Constants(there, phi, psi, rate, solver_rate, put(schedule.level), put(weight), blend)


def _initial_guess(c: Constants, method: Method, s: State, step: Tensor) -> Tensor:
    """z⁰ of ``step`` (B,) from ``s.base``: the state itself, or the step taken with a predicted direction once one is known.

    Extrapolated, the direction lies on the line through the last two in ln σ̃.
    """
    if method.guess == "previous":
        return s.base
    predicted = s.direction
    if method.guess == "extrapolated":
        share = (c.level[step] - s.level) / (s.level - s.level_before)
        share = share.nan_to_num(0.0, 0.0, 0.0)
        predicted = predicted + per_row(share, predicted) * (s.direction - s.direction_before)
    stepped = per_row(c.phi[step], s.base) * s.base + per_row(c.psi[step], s.base) * predicted
    return where_row(step > 0, stepped, s.base)


def _predict_bound(s: State, c: Constants, method: Method, m: Measures) -> Tensor:
    """The certified bound (B,) to expect two steps ahead if the next one is taken speculatively, infinite where it must not be.

    What a line through the directions at levels l₁, l₂ misses at l is κ |(l − l₁)(l − l₂)|. κ is measured by the first
    residual of this step.
    """
    now, ahead = s.step, (s.step + 2).clamp_max(len(c.schedule) - 1)
    gap = ((c.level[now] - s.level) * (c.level[now] - s.level_before)).abs()
    gap_ahead = ((c.level[ahead] - c.level[now]) * (c.level[ahead] - s.level)).abs()
    growth = gap_ahead / gap * c.psi[ahead] * c.weight[ahead] / (c.psi[now] * c.weight[now])
    rate = c.rate[ahead]
    predicted = certified_bound(growth * m.intra, rate * s.rate_ratio)
    first = (s.iteration == 0) & (s.step + 2 < len(c.schedule))
    return torch.where(first & _plain(rate, method), predicted, torch.inf)


def _with_paths(first: Tensor, noise: Tensor) -> Tensor:
    """The start of every path (B, K, …): the guess, and the guess perturbed (paper §4: ẑ⁰ = z⁰ + n)."""
    return torch.cat([first[:, None], first[:, None] + noise], 1)


def _measure(z: Tensor, f: Tensor, s: State, c: Constants) -> tuple[Measures, Tensor]:
    """The row measures and the contraction rate r = max(r_t, q̂), q̂ from ‖f(z) − f(z')‖/‖z − z'‖ of two iterates.

    A denoiser that is deciding between two pictures contracts less than r_t says, and goes on so for some steps: q̂ is
    remembered as a multiple of r_t, and slowly forgotten. It is measured whatever the solver: of plain iterates it is the
    ratio of successive residuals, and what an accelerated iteration leaves last is what f contracts least.
    """
    weight = c.weight[s.step]
    residuals = rms((f - z).flatten(0, 1)).to(z.dtype).view(f.shape[:2]) * weight[:, None]
    intra = residuals[:, 0]
    apart = [rms(f[:, 0] - f[:, k]).to(z.dtype) * weight for k in range(1, f.shape[1])]
    inter = torch.stack(apart).amax(0) if apart else torch.full_like(intra, torch.nan)
    known, fresh = c.rate[s.step], s.iteration == 0
    # No rate known (flow, a step from zero noise): there only the estimate counts, and at first is none
    unknown = torch.where(known.isnan(), 1.0, 0.0)
    seen = rms(f[:, 0] - s.f_before).to(z.dtype) / rms(z[:, 0] - s.z_before).to(z.dtype)
    estimate = torch.where(fresh, unknown, with_margin(seen))
    rate = torch.fmax(known * s.rate_ratio, estimate)
    bound, t = certified_bound(intra, rate), c.schedule.timesteps[s.step]
    return Measures(intra, residuals.amax(1), inter, bound, s.iteration + 1, t), rate


def with_margin(seen: Tensor) -> Tensor:
    """A contraction rate (B,) to rely on where ``seen`` was measured: ``MARGIN`` on it, or on 1 − it where that is less."""
    return torch.minimum(MARGIN * seen, 1 - (1 - seen) / MARGIN)


def _plain(rate: Tensor, method: Method) -> Tensor:
    """Which rows (B,) iterate z ← f(z) and nothing cleverer, so that their residuals tell how f contracts."""
    if isinstance(method.solver, Anderson | Chebyshev):
        return ~(rate > method.accelerate_above)  # no rate known: plain
    return torch.ones_like(rate, dtype=torch.bool)


def _verdict(method: Method, m: Measures, rate: Tensor, finite: Tensor, s: State) -> Tensor:
    """Status (B,) of each row after this evaluation; ``s`` already counts it in ``best``, ``stale`` and ``turns``."""
    status = torch.full_like(m.iteration, Status.RUNNING)
    judged = method.criterion.reached != Status.COMPLETED
    watched = m.inter if method.criterion.paths > 1 else m.intra
    diverging = (m.iteration >= 3) & (watched > 10 * s.best)
    if judged:
        stuck = s.no_improvement >= method.patience
        why = torch.where(s.sign_changes >= method.patience - 1, Status.OSCILLATING, Status.STAGNATED)
        why = torch.where(watched > 2 * s.best, Status.DIVERGING, why)
        if method.criterion.paths > 1:  # the paths rest, and not at one place
            why = torch.where(m.widest < method.tolerance, Status.AMBIGUOUS, why)
        status = torch.where(m.iteration >= method.max_iterations, Status.MAX_ITERATIONS, status)
        status = torch.where(stuck, why, status)
    status = torch.where(diverging, Status.DIVERGING, status)
    reached = torch.where(rate > method.certify_below, Status.UNCERTIFIED, method.criterion.reached)
    status = torch.where(method.criterion.met(m) & ~(diverging & (not judged)), reached, status)
    return torch.where(finite, status, Status.NONFINITE)


def take_step(s: State, output: Tensor, c: Constants, method: Method) -> tuple[State, Verdicts]:
    """One iteration of every row from the network's output (B·K, …): the next state, and what is said of this evaluation."""
    k = s.z.shape[1]
    step = s.step.repeat_interleave(k)
    flat = s.z.flatten(0, 1)
    d = c.schedule.direction(output.to(s.z.dtype), flat, step).view_as(s.z)
    # f(z_t) = φ_t z_{t-1} + ψ_t d(z_t, t)   [paper Eq. 3]
    f = (per_row(c.phi[s.step], s.base) * s.base)[:, None] + per_row(c.psi[s.step], s.z) * d
    iteration = s.iteration + 1
    reckoned = c.solver_rate[s.step]
    plain = _plain(reckoned, method)
    m, rate = _measure(s.z, f, s, c)
    watched = m.inter if method.criterion.paths > 1 else m.intra
    finite = f.flatten(1).isfinite().all(1) & m.intra.isfinite()

    fresh = s.iteration == 0
    r, first = (x.repeat_interleave(k) for x in (reckoned, fresh))
    at = Position(iteration.repeat_interleave(k), c.schedule.timesteps[step])
    following, memory = method.solver.step(flat, f.flatten(0, 1), r, first, at, s.memory)
    following = following.view_as(f)
    if method.accelerate_above > 0:
        following = where_row(reckoned <= method.accelerate_above, f, following)
    ends = method.solver.result(f.flatten(0, 1), memory).view_as(f)
    end = ends.mean(1) if method.combine == "mean" else ends[:, 0]

    better = finite & (watched < 0.98 * s.best)
    rising = watched > s.last
    best_f = where_row(better, f[:, 0], s.best_f)
    no_improvement = torch.where(better, 0, s.no_improvement + 1)
    stuck = ~plain & ~s.cautious & (no_improvement >= 2)
    following = where_row(s.cautious | stuck, f, following)
    counted = replace(
        s,
        best=torch.where(better, watched, s.best),
        best_f=best_f,
        no_improvement=torch.where(stuck, 0, no_improvement),
        sign_changes=torch.where(stuck, 0, s.sign_changes + ((rising != s.rising) & ~fresh).long()),
        cautious=s.cautious | stuck,
    )
    status = _verdict(method, m, rate, finite, counted)
    unconfirmed = s.speculative & finite & (status != method.criterion.reached)
    status = torch.where(unconfirmed, Status.RUNNING, status)
    done = status != Status.RUNNING
    answer = where_row(status >= Status.MAX_ITERATIONS, counted.best_f, end)
    after = _move_on(counted, done, answer, d[:, 0], c, method)
    after = replace(
        after,
        z=where_row(done, after.z, following),
        iteration=torch.where(done, 0, iteration),
        last=torch.where(done, torch.inf, m.intra if method.criterion.paths == 1 else watched),
        z_before=s.z[:, 0],
        f_before=f[:, 0],
        rising=rising & ~done,
        rate_ratio=_remembered(s.rate_ratio, rate / c.rate[s.step], done),
        memory=memory,
    )
    if method.speculative_below > 0:
        predicted = _predict_bound(s, c, method, m)
        after = _take_speculative(after, done & (predicted < method.speculative_below * method.tolerance), c, method)
        after = _roll_back(s, after, unconfirmed)
    dtype, bound = m.intra.dtype, torch.where(rate > method.certify_below, torch.inf, m.bound)
    return after, Verdicts(status.to(dtype), m.intra, m.inter, bound, rate, after.step.to(dtype))


def _take_speculative(s: State, chosen: Tensor, c: Constants, method: Method) -> State:
    """``chosen`` rows (B,) take the step before them with the extrapolated direction and unevaluated.

    The next step lies on the same line of directions, further away from where it was drawn. If that one passes its
    certified test at the first evaluation, so does the speculative one between; if not, ``_roll_back`` undoes it.
    """
    ahead = torch.where(chosen, s.step + 1, s.step)
    moved = replace(s, anchor=s.base, base=where_row(chosen, s.z[:, 0], s.base), step=ahead, speculative=chosen)
    guess = _initial_guess(c, method, moved, ahead.clamp_max(len(c.schedule) - 1))
    return replace(moved, z=where_row(chosen, _with_paths(guess, s.noise), s.z))


def _roll_back(before: State, after: State, failed: Tensor) -> State:
    """Rows (B,) whose speculative step was not confirmed return to it; its iterate is then a guess like any other."""
    return replace(
        after,
        z=where_row(failed, _with_paths(before.base, before.noise), after.z),
        base=where_row(failed, before.anchor, after.base),
        step=torch.where(failed, before.step - 1, after.step),
        iteration=torch.where(failed, 0, after.iteration),
        last=torch.where(failed, torch.inf, after.last),
        best=torch.where(failed, torch.inf, after.best),
        best_f=where_row(failed, before.anchor, after.best_f),
        no_improvement=torch.where(failed, 0, after.no_improvement),
        sign_changes=torch.where(failed, 0, after.sign_changes),
        rising=after.rising & ~failed,
        speculative=after.speculative & ~failed,
    )


def _remembered(rate_ratio: Tensor, seen: Tensor, done: Tensor) -> Tensor:
    """The multiple of r_t to expect next: what was seen, forgotten by a twentieth a step, between 1 and ``MOST_EXCESS``."""
    seen = torch.fmax(seen.nan_to_num(1.0, 1.0, 1.0), rate_ratio).clamp(1.0, MAX_RATE_RATIO)
    return torch.where(done, (0.95 * seen).clamp_min(1.0), seen)


def _move_on(s: State, done: Tensor, answer: Tensor, d: Tensor, c: Constants, method: Method) -> State:
    """Rows that are done take their next step: z_t becomes z_{t-1}, and a new guess is made."""
    step = torch.where(done, s.step + 1, s.step)
    start = answer
    if c.blend is not None:  # EasyInv: the step to come starts between here and where this one started
        start = torch.lerp(s.base, answer, per_row(c.blend[step], answer).expand_as(answer))
    base = where_row(done, start, s.base)
    moved = replace(
        s,
        base=base,
        direction=where_row(done, d, s.direction),
        direction_before=where_row(done, s.direction, s.direction_before),
        level=torch.where(done, c.level[s.step], s.level),
        level_before=torch.where(done, s.level, s.level_before),
        step=step,
    )
    guess = answer if c.blend is not None else _initial_guess(c, method, moved, step.clamp_max(len(c.schedule) - 1))
    return replace(
        moved,
        z=_with_paths(guess, s.noise),
        best=torch.where(done, torch.inf, s.best),
        best_f=where_row(done, base, s.best_f),
        no_improvement=torch.where(done, 0, s.no_improvement),
        sign_changes=torch.where(done, 0, s.sign_changes),
        cautious=s.cautious & ~done,
        speculative=s.speculative & ~done,
    )


def empty_state(like: Tensor, slots: int, method: Method) -> State:
    """``slots`` rows that hold nothing yet; ``like`` (M, C, h, w) gives shape, dtype and device."""
    base = like.new_zeros((slots, *like.shape[1:]))
    z = base[:, None].expand(-1, method.paths, *base.shape[1:]).clone()
    count = torch.zeros(slots, dtype=torch.long, device=like.device)
    value = torch.full((slots,), torch.inf, dtype=like.dtype, device=like.device)
    none, never = count > 0, value * torch.nan
    return State(
        z=z, base=base, direction=base.clone(), direction_before=base.clone(), level=never, level_before=never.clone(),
        anchor=base.clone(), speculative=none, noise=z[:, 1:].clone(), step=count, iteration=count.clone(), last=value,
        z_before=base.clone(), f_before=base.clone(),
        best=value.clone(), best_f=base.clone(), no_improvement=count.clone(), sign_changes=count.clone(),
        rising=none.clone(), cautious=none.clone(), rate_ratio=torch.ones_like(value),
        memory=method.solver.init(z.flatten(0, 1)),
    )  # fmt: skip


def insert_slots(s: State, slots: Tensor, z0: Tensor, noise: Tensor) -> State:
    """Give ``slots`` (n,) to new images: z0 (n, C, h, w), noise (n, K − 1, C, h, w)."""

    def put(old: Tensor, new: Tensor | float) -> Tensor:
        out = old.clone()
        out[slots] = new
        return out

    return replace(
        s,
        z=put(s.z, _with_paths(z0, noise)),
        base=put(s.base, z0),
        noise=put(s.noise, noise),
        best_f=put(s.best_f, z0),
        direction=put(s.direction, 0),
        direction_before=put(s.direction_before, 0),
        level=put(s.level, torch.nan),
        level_before=put(s.level_before, torch.nan),
        speculative=put(s.speculative, False),
        step=put(s.step, 0),
        iteration=put(s.iteration, 0),
        last=put(s.last, torch.inf),
        best=put(s.best, torch.inf),
        no_improvement=put(s.no_improvement, 0),
        sign_changes=put(s.sign_changes, 0),
        rising=put(s.rising, False),
        cautious=put(s.cautious, False),
        rate_ratio=put(s.rate_ratio, 1.0),
    )


def compact_slots(s: State, slots: Tensor, paths: int) -> State:
    """The state of ``slots`` (n,) alone."""
    rows = (slots[:, None] * paths + torch.arange(paths, device=slots.device)).flatten()
    kept = {f.name: getattr(s, f.name)[slots] for f in fields(s) if f.name != "memory"}
    return State(**kept, memory=tuple(x[rows] for x in s.memory))
