"""Inversion methods by name: a criterion, an initial guess and a solver each.

One engine (``fpcore.inversion.invert``) runs them all, so that they differ in nothing but what their papers say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from fpcore.inversion.criteria import Certified, Criterion, FixedIterations, InterPath, IntraPath
from fpcore.inversion.solvers import Anderson, Averaging, Chebyshev, Picard, Solver

Guess = Literal["previous", "last", "extrapolated"]
MethodName = Literal["ddim", "fixed-point", "intra-path", "inter-path", "certified", "aidi", "renoise", "easyinv"]


@dataclass(frozen=True)
class Blend:
    """EasyInv's blend: z_t ← η z_t + (1 − η) z_{t-1} for steps between the shares ``start`` and ``stop`` of all steps."""

    eta: float = 0.5
    start: float = 0.05
    stop: float = 0.25


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
    patience: int = 4
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
    ``renoise``      Garibi et al. 2024: the mean of f(z^i) over the later iterations of a fixed count.
    ``easyinv``      Zhang et al. 2024: z_t = η f(z_{t-1}) + (1 − η) z_{t-1} on some early steps, one evaluation.
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
            return replace(found, solver=Chebyshev(), accelerate_above=0.4)
        case "aidi":
            return Method(name, IntraPath(tolerance), solver=Anderson(window=2))
        case "renoise":
            return Method(name, FixedIterations(iterations), solver=Averaging(first=2))
        case "easyinv":
            return Method(name, FixedIterations(1), blend=Blend())
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
