"""One contract for every solver, on linear contractions whose fixed points are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fpcore.inversion.solvers import Anderson, Averaging, Chebyshev, Picard, Position, Rounds, Solver

AVERAGING = Averaging(Rounds(400, 2, 400), Rounds(400, 0, 5))
SOLVERS: list[Solver] = [Picard(), Picard(0.7), Anderson(1), Anderson(2), Anderson(3), Chebyshev(), AVERAGING]


def solve(solver: Solver, f: object, z: Tensor, count: int, rate: float = torch.nan) -> tuple[Tensor, list[float]]:
    memory, residuals = solver.init(z), []
    for k in range(1, count + 1):
        value = f(z)  # type: ignore[operator]
        residuals.append(float((value - z).norm()))
        following, memory = solver.step(
            z, value, z.new_full((len(z),), rate), torch.full((len(z),), k == 1), position(len(z), k), memory
        )
        answer = solver.result(value, memory)
        z = following
    return answer, residuals


def position(rows: int, iteration: int) -> Position:
    return Position(torch.full((rows,), iteration), torch.full((rows,), 500))


def contraction(rho: float, size: int = 6) -> tuple[object, Tensor]:
    generator = torch.Generator().manual_seed(7)
    basis, _ = torch.linalg.qr(torch.randn((size, size), generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.linspace(0.1, 1, size, dtype=torch.float64) * rho) @ basis.T
    shift = torch.randn(size, generator=generator, dtype=torch.float64)
    root = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, shift)
    return (lambda z: z @ matrix.T + shift), root


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_converges_to_the_fixed_point(solver: Solver, rho: float) -> None:
    f, root = contraction(rho)
    answer, _ = solve(solver, f, torch.zeros((3, 6), dtype=torch.float64), 400)
    tolerance = 0.2 if isinstance(solver, Averaging) else 1e-6  # an average remembers where it began
    assert (answer - root).norm(dim=1).max() / root.norm() < tolerance


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_rows_are_independent(solver: Solver) -> None:
    f, _ = contraction(0.8)
    start = torch.randn((4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together, _ = solve(solver, f, start, 8)
    permuted, _ = solve(solver, f, start.flip(0), 8)
    torch.testing.assert_close(permuted, together.flip(0), rtol=1e-12, atol=1e-12)
    doubled, _ = solve(solver, f, start[[1, 1]], 8)
    torch.testing.assert_close(doubled[0], doubled[1], rtol=0, atol=0)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_nan_in_one_row_leaves_the_others_bit_identical(solver: Solver) -> None:
    f, _ = contraction(0.8)
    start = torch.randn((3, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def poisoned(z: Tensor) -> Tensor:
        return torch.where(torch.tensor([[False], [True], [False]]), torch.nan, f(z))  # type: ignore[operator]

    clean, _ = solve(solver, f, start, 6)
    dirty, _ = solve(solver, poisoned, start, 6)
    assert torch.equal(clean[[0, 2]], dirty[[0, 2]])


@pytest.mark.parametrize("solver", [s for s in SOLVERS if not isinstance(s, Averaging)], ids=repr)
def test_stays_at_a_fixed_point(solver: Solver) -> None:
    f, root = contraction(0.8)
    answer, residuals = solve(solver, f, root[None], 3)
    assert max(residuals) < 1e-12
    torch.testing.assert_close(answer, root[None], rtol=1e-10, atol=1e-10)


@pytest.mark.long
@given(st.floats(0.1, 0.99))
def test_anderson_needs_no_more_evaluations_than_picard(rho: float) -> None:
    f, _ = contraction(rho)
    start = torch.zeros((1, 6), dtype=torch.float64)

    def needed(solver: Solver) -> int:
        _, residuals = solve(solver, f, start, 120)
        return next((k for k, r in enumerate(residuals) if r < 1e-3), 120)

    assert needed(Anderson(3)) <= needed(Picard()) + 1


@given(st.floats(0.3, 0.97))
def test_chebyshev_reaches_its_rate_where_the_spectrum_is_known(rho: float) -> None:
    """Error after k evaluations ≤ 2 σ^k, σ = ρ/(1 + √(1 − ρ²)) with ρ = r/(2 − r)."""
    f, root = contraction(rho)
    _, residuals = solve(Chebyshev(below=0), f, torch.zeros((1, 6), dtype=torch.float64), 40, rate=rho)
    spectral = rho / (2 - rho)
    sigma = spectral / (1 + (1 - spectral**2) ** 0.5)
    start = float(root.norm())
    for k, residual in enumerate(residuals):
        assert (
            residual <= 2 * sigma**k * start + 1e-12
        )  # the residual is at most the error, eigenvalues being in [0, r]


def test_anderson_forgets_its_history_where_the_residual_grows() -> None:
    """The iterate of such a row is the plain one, and the next is mixed with what came since alone."""
    solver, generator = Anderson(2), torch.Generator().manual_seed(3)
    z = torch.randn((2, 6), generator=generator, dtype=torch.float64)
    memory = solver.init(z)

    def evaluate(k: int, sizes: list[float]) -> tuple[Tensor, Tensor]:
        """f and what is asked next, the residuals of the rows being of these sizes."""
        nonlocal memory
        direction = torch.randn((2, 6), generator=generator, dtype=torch.float64)
        f = z + direction / direction.norm(dim=1, keepdim=True) * torch.tensor(sizes, dtype=torch.float64)[:, None]
        unknown, fresh = torch.full((2,), torch.nan), torch.full((2,), k == 1)
        following, memory = solver.step(z, f, unknown, fresh, position(2, k), memory)
        return f, following

    evaluate(1, [1.0, 1.0])
    evaluate(2, [0.5, 0.5])
    f, following = evaluate(3, [0.6, 0.4])
    torch.testing.assert_close(following[0], f[0], rtol=0, atol=0)
    assert float((following[1] - f[1]).norm()) > 1e-3
    assert memory[2].tolist() == [1, 2]
