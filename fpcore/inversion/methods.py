"""Inversion methods by name: a criterion, an initial guess and a solver each.

One engine (``fpcore.inversion.invert``) runs them all, so that they differ in nothing but what their papers say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor

from fpcore.inversion.criteria import Certified, Criterion, FixedIterations, InterPath, IntraPath, Measures, Status
from fpcore.inversion.schedule import Schedule
from fpcore.inversion.solvers import Anderson, Averaging, Chebyshev, GradientDescent, Picard, Position, Rounds, Solver

Guess = Literal["previous", "last", "extrapolated"]
MethodName = Literal[
    "ddim", "fixed-point", "intra-path", "inter-path", "certified", "aidi", "renoise", "renoise-sd",
    "renoise-regularised", "renoise-sd-regularised", "easyinv", "easyinv-sdxl", "spdinv", "ddim-left",
]  # fmt: skip


SPDINV_RMS = 5e-6**0.5
"""SPDInv's threshold on the mean squared error, as RMS."""
CERTIFY_BELOW = 0.8
"""Of 5,200 steps on trained weights the bound broke on 32, all of them at r_t = .85 (docs/CONVERGENCE.md)."""


@dataclass(frozen=True)
class Blend:
    """EasyInv's blend, as released: the state z_i that step i of N starts from becomes η z_i + (1 − η) z_{i-1}, z_{i-1} the
    one that the step before started from, where start N < i < (start + length) N; ε is still taken at z_i itself.
    """

    eta: float = 0.5
    start: float = 0.05
    length: float = 0.2


@dataclass(frozen=True)
class Renoised:
    """Stop when ReNoise's plan of the step is done."""

    averaging: Averaging
    paths: int = 1
    reached: Status = Status.COMPLETED

    def met(self, m: Measures) -> Tensor:
        """See Criterion."""
        return self.averaging.finished(Position(m.iteration, m.timestep))


def renoise(rounds: int, *, regularised: bool = False) -> Averaging:
    """The released plan for that many renoising steps: the last two of nine are averaged, and below timestep 250 the
    first five of at most six."""
    early = Rounds(min(5, rounds), 0, 5)
    return Averaging(late=Rounds(rounds, 8, 10), early=early, regularised=regularised)


@dataclass(frozen=True)
class Method:
    """How one step's fixed point is looked for.

    ``guess``: z⁰ = z_{t-1} (previous), φ z_{t-1} + ψ d with the last direction (last) or with one extrapolated in ln σ̃.
    ``paths``: how many paths ride together; more than the criterion needs only measures inter-path distances.
    ``combine``: what several paths return: the unperturbed end, or the mean the paper suggests.
    ``norm``: residuals are measured on the state z, or on z/a, a = √ᾱ (the scale of the picture).
    ``accelerate_above``: use the solver on steps whose rate r_t is larger, and plain iteration, which tells how fast f
    contracts, on the others.
    ``speculative_below``: take a step unevaluated, along the extrapolated direction, where the certified bound of the step after
    it is predicted to stay below this share of the tolerance; that bound is then measured, and the step undone if it
    fails. 0: every step is evaluated.
    ``certify_below``: the largest rate for which a bound is promised. The bound's factor r/(1 − r) and its sensitivity to r
    grow without limit towards 1: at .91 a network that contracts 7 % less than an ideal denoiser breaks it threefold.
    ``asks``: the level at which the network is asked: the one the step leads to, as the fixed point wants it, or the one it leaves.
    ``patience``: evaluations without progress before a row is called stagnated, oscillating, ambiguous or diverging.
    """

    name: str
    criterion: Criterion
    guess: Guess = "previous"
    solver: Solver = Picard()
    max_iterations: int = 50
    paths: int = 1
    combine: Literal["unperturbed", "mean"] = "unperturbed"
    norm: Literal["state", "picture"] = "state"
    accelerate_above: float = 0.0
    speculative_below: float = 0.0
    certify_below: float = float("inf")
    patience: int = 4
    asks: Literal["reached", "left"] = "reached"
    blend: Blend | None = None

    def __post_init__(self) -> None:
        if self.paths < self.criterion.paths:
            raise ValueError(f"{self.name} needs at least {self.criterion.paths} paths, not {self.paths}")
        if self.speculative_below > 0 and (self.guess != "extrapolated" or not isinstance(self.criterion, Certified)):
            raise ValueError(
                f"speculative steps need the certified criterion and the extrapolated guess, {self.name} has not both"
            )
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {self.max_iterations}")

    @property
    def returns_f(self) -> bool:
        """Whether a step's answer is f(z) of its last iterate, to which the certified bound applies."""
        return self.blend is None and self.combine == "unperturbed" and not isinstance(self.solver, Averaging)

    def measures_picture(self, schedule: Schedule) -> bool:
        """Whether residuals are taken of z/a. Flow has no such scale at σ = 1 and is measured on the state."""
        return self.norm == "picture" and schedule.prediction_type != "flow"

    @property
    def tolerance(self) -> float:
        """The criterion's tolerance; infinite where it has none."""
        return getattr(self.criterion, "tolerance", float("inf"))


def _named(name: str, tolerance: float, iterations: int) -> Method:
    """The methods as their papers describe them, all on f(z) = φ z_{t-1} + ψ ε(z, t) (the paper's Eq. 3).

    ``ddim``         Song et al. 2021, Eq. 13 reversed: z_t = f(z_{t-1}), ε at the old latent and the new timestep.
    ``fixed-point``  the paper, Eq. 6: z^{i+1} = f(z^i) from z⁰ = z_{t-1}, a fixed count.
    ``intra-path``   the same until RMS(f(z) − z) is small: the test of FPI (Meiri et al. 2023) and AIDI.
    ``inter-path``   the paper, §4: the same beside ẑ⁰ = z⁰ + n, n ~ N(0, I), until RMS(f(z) − f(ẑ)) is small.
    ``certified``    r/(1−r) · RMS(f(z) − z), Banach's a-posteriori bound; starts and speculative steps extrapolated in ln σ̃;
                     Chebyshev semi-iteration (Golub & Varga 1961) where r_t is large.
    ``aidi``         Pan et al. 2023: Anderson acceleration (Walker & Ni 2011), intra-path test.
    ``renoise``      Garibi et al. 2024, its released defaults: nine renoising steps, the last two averaged; five below
                     timestep 250, the first five averaged. ``renoise-sd``: its example for SD 1.5 and DDIM at 50 steps,
                     one renoising step. Both without the regularisation of ε, which ``renoise-regularised`` and
                     ``renoise-sd-regularised`` have, as released. Left out: the correction of the noise that a step of
                     its Euler and LCM samplers adds; DDIM adds none, and its released code has none for DDIM.
    ``spdinv``       Li et al. 2024: AdamW on MSE(z, f(z)), at most 25 updates; its own tolerance.
    ``easyinv``      Zhang et al. 2024, as released for SD 1.4: η = .5 on steps 3 to 12 of 50, one evaluation.
                     ``easyinv-sdxl``: η = .8 on the steps from 85 to 95 %. Left out: guidance during inversion.
    ``ddim-left``    the same with ε at the old latent and the old timestep. It is what the abstract of Chen et al. 2025 leads to:
                     at the fixed point the network says x0 + e_t; put e_{t-1} for e_t and solve for z_t, and x0 cancels. Whether
                     it is their estimator cannot be told from the abstract.
    """
    match name:
        case "ddim":
            return Method(name, FixedIterations(1))
        case "fixed-point":
            return Method(name, FixedIterations(iterations))
        case "intra-path":
            return Method(name, IntraPath(tolerance))
        case "inter-path":
            return Method(name, InterPath(tolerance), paths=2)
        case "certified":
            found = Method(name, Certified(tolerance), guess="extrapolated", norm="picture", speculative_below=0.5)
            return replace(found, solver=Chebyshev(), accelerate_above=0.4, certify_below=CERTIFY_BELOW)
        case "aidi":
            return Method(name, IntraPath(tolerance), solver=Anderson(window=2))
        case "renoise" | "renoise-sd" | "renoise-regularised" | "renoise-sd-regularised":
            averaging = renoise(1 if "-sd" in name else 9, regularised=name.endswith("regularised"))
            return Method(name, Renoised(averaging), solver=averaging)
        case "spdinv":
            return Method(name, IntraPath(SPDINV_RMS), solver=GradientDescent(), max_iterations=25)
        case "easyinv":
            return Method(name, FixedIterations(1), blend=Blend())
        case "easyinv-sdxl":
            return Method(name, FixedIterations(1), blend=Blend(eta=0.8, start=0.85, length=0.1))
        case "ddim-left":
            return Method(name, FixedIterations(1), asks="left")
        case _:
            raise ValueError(f"unknown inversion method {name!r}; choose from {', '.join(get_args(MethodName))}")


def method(
    name: str,
    *,
    tolerance: float = 1e-3,
    iterations: int = 10,
    guess: Guess | None = None,
    damping: float | None = None,
    anderson: int | None = None,
    **options: Any,
) -> Method:
    """A method by name. ``tolerance``: RMS; ``iterations``: for the fixed-count ones; ``damping`` in (0, 1];
    ``anderson``: window; other fields of ``Method`` by keyword. Raises ValueError for what does not fit together.
    """
    if tolerance <= 0:
        raise ValueError(f"tolerance must be above 0, not {tolerance}")
    if damping is not None and anderson is not None:
        raise ValueError("choose damping or Anderson acceleration, not both")
    if damping is not None and not 0 < damping <= 1:
        raise ValueError(f"damping must lie in (0, 1], not {damping}")
    if anderson is not None and not 1 <= anderson <= 3:
        raise ValueError(f"an Anderson window of 1 to 3 is supported, not {anderson}")
    chosen = _named(name, tolerance, iterations)
    if guess is not None:
        options["guess"] = guess
        if guess != "extrapolated":
            options.setdefault("speculative_below", 0.0)
    if damping is not None:
        options |= {"solver": Picard(damping), "accelerate_above": 0.0}
    if anderson is not None:
        options["solver"] = Anderson(anderson)
    return replace(chosen, **options)
