"""Classifier-free guidance on an inverted latent, and the ways of mending what it breaks.

    d = d(z, t, ∅) + w (d(z, t, c) − d(z, t, ∅))

Inversion runs at w = 1. Sampling at w = 7.5 against the null text leaves the inverted path, however exact the
inversion was. ``none`` accepts that; ``npi`` (negative-prompt inversion) takes the source prompt for ∅, so that the
source branch is sampled at w = 1 in effect; ``nti`` (null-text optimisation) fits one ∅_t a step; ``direct-inversion``
puts the source branch back on the inverted path after every step. Steps count in the order of sampling: step 0 starts
at z_T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fpcore.editing.settings import GUIDANCE_MODES, GuidanceMode
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Condition

ConditionalPredict = Callable[[Tensor, Tensor, Condition], Tensor]
"""(z (R, C, h, w), timestep (R,), condition of R rows) → the network's raw output; ``Model.predict``."""


@dataclass(frozen=True)
class Guidance:
    """How conditional and unconditional predictions combine, and what happens to the source branch.

    ``scale``: w; at w = 1 no unconditional row is evaluated. ``nulls``: the unconditional condition of P pairs, one for
    all steps or one a step. ``pivots`` (P, N + 1, C, h, w): the inverted path, z_0 first, that the source branch is put
    back on; None to let it run.
    """

    scale: float
    nulls: tuple[Condition, ...] = ()
    pivots: Tensor | None = None

    @property
    def rows(self) -> int:
        """Network rows evaluated for one latent and step."""
        return 1 if self.scale == 1 else 2

    def null(self, step: int, count: int) -> Condition:
        """The unconditional condition of ``count`` latents (a multiple of P) at ``step``."""
        null = self.nulls[0] if len(self.nulls) == 1 else self.nulls[step]
        return null.repeat(count // len(null))

    def correct(self, step: int, source: Tensor) -> Tensor:
        """The source branch (P, C, h, w) after ``step``: with pivots z'_{t-1} + (z*_{t-1} − z'_{t-1}), so z*_{t-1}."""
        return source if self.pivots is None else self.pivots[:, -2 - step].to(source)


def direction(
    predict: ConditionalPredict, schedule: Schedule, step: int, z: Tensor, condition: Condition, guidance: Guidance
) -> Tensor:
    """Guided d(z, t) for latents (B, C, h, w) in one call of the network, unconditional rows first."""
    if guidance.scale == 1:
        return plain_direction(predict, schedule, step, z, condition)
    both = Condition.cat([guidance.null(step, len(z)), condition])
    null, conditional = plain_direction(predict, schedule, step, torch.cat([z, z]), both).chunk(2)
    return null + guidance.scale * (conditional - null)


def plain_direction(
    predict: ConditionalPredict, schedule: Schedule, step: int, z: Tensor, condition: Condition
) -> Tensor:
    """d(z, t) for rows (R, C, h, w), all at sampling step ``step``."""
    index = len(schedule) - 1 - step
    output = predict(z, schedule.timesteps[index].to(z.device).expand(len(z)), condition)
    return schedule.direction(output.to(z.dtype), z, torch.full((len(z),), index))


def reverse(schedule: Schedule, step: int, z: Tensor, d: Tensor) -> Tensor:
    """z_{t-1} = (z_t − ψ_t d) / φ_t at sampling step ``step``."""
    index = len(schedule) - 1 - step
    return (z - float(schedule.psi[index]) * d) / float(schedule.phi[index])


@dataclass(frozen=True)
class Prepared:
    """A guidance ready to sample with; ``nfe`` (P,): network rows it cost; ``loss`` (P, N): see ``NullText``."""

    guidance: Guidance
    nfe: Tensor
    loss: Tensor | None = None


def prepare(
    mode: GuidanceMode,
    scale: float,
    predict: ConditionalPredict,
    schedule: Schedule,
    source: Condition,
    empty: Condition,
    trajectory: Tensor | None,
) -> Prepared:
    """The guidance called ``mode`` for P images.

    Args:
        source: the prompts the images were inverted with; P rows.
        empty: the null text; P rows.
        trajectory: (P, N + 1, C, h, w) the inversion's path, z_0 first; needed by nti and direct-inversion.

    Raises ValueError for an unknown mode, a missing or unfitting trajectory, and nti at w = 1.
    """
    if mode not in GUIDANCE_MODES:
        raise ValueError(f"guidance {mode!r} is not one of {', '.join(GUIDANCE_MODES)}")
    free = torch.zeros(len(source), dtype=torch.long)
    if mode in ("none", "npi"):
        return Prepared(Guidance(scale, (source if mode == "npi" else empty,)), free)
    if trajectory is None or trajectory.shape[:2] != (len(source), len(schedule) + 1):
        raise ValueError(
            f"guidance {mode!r} follows the inverted path and needs {len(schedule) + 1} latents for each of "
            f"{len(source)} images; keep the trajectory when inverting, with the same schedule"
        )
    if mode == "direct-inversion":
        return Prepared(Guidance(scale, (empty,), trajectory), free)
    found = null_text(predict, schedule, source, empty, trajectory, scale)
    return Prepared(Guidance(scale, found.nulls), found.nfe, found.loss)


# Null-text optimisation


@dataclass(frozen=True)
class NullText:
    """``nulls``: N conditions, one a sampling step. ``nfe`` (P,): rows evaluated forward. ``loss`` (P, N): the MSE
    between the rebuilt and the inverted latent after each step; not finite where an image failed."""

    nulls: tuple[Condition, ...]
    nfe: Tensor
    loss: Tensor


def null_text(
    predict: ConditionalPredict,
    schedule: Schedule,
    source: Condition,
    empty: Condition,
    trajectory: Tensor,
    scale: float,
    inner_steps: int = 10,
) -> NullText:
    """Null-text optimisation (Mokady et al. 2023) of P images: ∅_t such that guided sampling retraces the inversion.

    Adam at 1e-2 (1 − i/100), at most ``inner_steps`` updates in step i, until the MSE to the pivot is below
    1e-5 + 2e-5 i. Each image stops by itself. The batch keeps its shape until the last image has stopped, since a
    sign-like update such as Adam's turns rounding noise of another batch shape into visible differences. An embedding
    that already meets the tolerance is left as it is (the original updates it once more). Arguments as in ``prepare``.
    """
    if scale == 1:
        raise ValueError(
            "nti fits the unconditional embedding, which guidance_scale 1 does not use; raise it, say to 7.5"
        )
    z, null = trajectory[:, -1], empty
    nulls, losses = [], []
    nfe = torch.zeros(len(source), dtype=torch.long)
    for step in range(len(schedule)):
        with torch.no_grad():
            conditional = plain_direction(predict, schedule, step, z, source)
        pivot = trajectory[:, -2 - step].to(z)

        def retrace(null: Condition, step: int = step, z: Tensor = z, conditional: Tensor = conditional) -> Tensor:
            free = plain_direction(predict, schedule, step, z, null)
            return reverse(schedule, step, z, free + scale * (conditional - free))

        rate, tolerance = 1e-2 * (1 - step / 100), 1e-5 + 2e-5 * step
        z, null, loss, evaluations = _fit_null(retrace, null, pivot, rate, tolerance, inner_steps)
        nulls.append(null)
        losses.append(loss)
        nfe += 1 + evaluations
    return NullText(tuple(nulls), nfe, torch.stack(losses, dim=1))


def _fit_null(
    retrace: Callable[[Condition], Tensor], null: Condition, pivot: Tensor, rate: float, tolerance: float, updates: int
) -> tuple[Tensor, Condition, Tensor, Tensor]:
    """Fit one step. Returns the rebuilt latents, the fitted condition, its loss (P,) and the evaluations (P,) spent."""
    embeddings = null.embeddings.clone().requires_grad_()
    adam = torch.optim.Adam([embeddings], lr=rate)
    running = torch.ones(len(pivot), dtype=torch.bool, device=pivot.device)
    rebuilt, loss = torch.zeros_like(pivot), torch.zeros(len(pivot), device=pivot.device)
    spent = torch.zeros(len(pivot), dtype=torch.long)
    for update in range(updates + 1):
        latest = retrace(replace(null, embeddings=embeddings))
        error = (latest - pivot).square().flatten(1).mean(1)
        rebuilt = torch.where(running.view(-1, 1, 1, 1), latest.detach(), rebuilt)
        loss = torch.where(running, error.detach(), loss)
        spent += running.cpu()
        running = running & error.detach().isfinite() & (error.detach() >= tolerance)
        if update == updates or not bool(running.any()):
            break
        _update(adam, embeddings, error, running)
    return rebuilt, replace(null, embeddings=embeddings.detach()), loss, spent


def _update(adam: torch.optim.Adam, embeddings: Tensor, error: Tensor, running: Tensor) -> None:
    """One step of Adam for the running rows; the others keep their embedding in spite of Adam's momentum."""
    kept = embeddings.detach().clone()
    scale = 2.0**14  # the gradient of a small mean would vanish in a float16 network
    (gradient,) = torch.autograd.grad(scale * error.sum(), [embeddings])
    embeddings.grad = gradient / scale
    adam.step()
    with torch.no_grad():
        embeddings.copy_(torch.where(running.view(-1, 1, 1), embeddings, kept))
