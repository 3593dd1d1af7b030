"""Do the tests bite? Small faults put into the inversion and editing rooms one at a time; the tests must notice each.

    python -m benchmarks.mutants                     # all
    python -m benchmarks.mutants --only step guidance --save mutants.jsonl

Each mutant replaces one piece of source text in memory, in a process of its own, and runs the tests named beside it. It
is killed if a test fails: the short tests are tried first, and the first failure ends it. Every test that kills is run
without a mutant as well, and must pass. Counts and survivors are printed; the exit code is 1 if fewer than 95 % are killed.
"""

# ruff: noqa: E501 (a mutant is a line)
from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import resource
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
LIMIT = 180
PRELOADED = {
    "torch": (),
    "hypothesis": (),
    "pytest": (),
    "tests.conftest": (),
    "diffusers": ("AutoencoderKL", "DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "UNet2DConditionModel"),
    "transformers": ("CLIPTextModel", "CLIPTokenizer"),
}
"""What the tests import and no mutant changes; diffusers and transformers read a class when it is asked for."""
INVERSION, EDITING = "tests/fpcore/inversion", "tests/fpcore/editing"
PEERS, INVERT, SCHEDULE = f"{INVERSION}/test_peers.py", f"{INVERSION}/test_invert.py", f"{INVERSION}/test_schedule.py"
BOUND, SOLVERS, BELM = f"{INVERSION}/test_path_bound.py", f"{INVERSION}/test_solvers.py", f"{INVERSION}/test_belm.py"
STATUSES, SPECULATIVE = f"{INVERSION}/test_statuses.py", f"{INVERSION}/test_speculative_steps.py"
GUIDANCE, ALIGNMENT = f"{EDITING}/test_guidance.py", f"{EDITING}/test_token_alignment.py"
LOOPS, SPD = f"{PEERS}::test_a_method_is_what_its_loop_is", f"{PEERS}::test_spdinv_is_its_released_loop"
TWO_STEP = f"{PEERS}::test_two_step_samplers_walk_their_papers_equations"
FLOW = f"{PEERS}::test_flow_samplers_walk_their_papers_equations"
RENOISE = f"{INVERSION}/test_renoise.py"
ATTENTION, EDIT, OOM = f"{EDITING}/test_attention.py", f"{EDITING}/test_edit.py", f"{INVERSION}/test_oom.py"


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in ``module``; ``tests``: files or single tests, in the order in which they are tried."""

    module: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(module: str, tests: tuple[str, ...], *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant(f"fpcore.{module}", old, new, tests) for old, new in changes]


MUTANTS = [
    *_of(
        "inversion.schedule", (SCHEDULE, LOOPS),
        ("return self.noise - self.noise_prev * self.phi", "return self.noise + self.noise_prev * self.phi"),
        ("else self.signal / self.signal_prev", "else self.signal_prev / self.signal"),
        ("return a * output + s * z", "return a * output - s * z"),
        ("return (z - a * output) / s", "return (z + a * output) / s"),
        ("else (z - s * d) / a", "else (z - s * d) * a"),
        ("return torch.where(self.noise_prev > 0, self.psi / self.noise, torch.nan)", "return self.psi / self.noise"),
        ("if int(timesteps[-1]) >= config.num_train_timesteps:", "if int(timesteps[-1]) > config.num_train_timesteps:"),
        ("before = timesteps - config.num_train_timesteps // num_inference_steps", "before = timesteps - config.num_train_timesteps // num_inference_steps - 1"),
        ("alphas = alphas[alphas > 0]", "alphas = alphas"),
        ("torch.log(self.noise / self.signal)", "self.noise / self.signal"),
        ("self.timesteps.new_zeros(1), self.timesteps[:-1]", "self.timesteps[:1], self.timesteps[:-1]"),
        ("known = self.noise_prev > 0", "known = self.noise_prev >= 0"),
        ("signal=torch.where(known, self.signal_prev, self.signal)", "signal=self.signal"),
        ("noise=torch.where(known, self.noise_prev, self.noise)", "noise=self.noise"),
    ),
    *_of(
        "inversion.criteria", (f"{INVERT}::test_certified_bound_holds_on_ten_thousand_checks", BOUND, STATUSES),
        ("rate / (1 - rate) * residual", "rate / (1 + rate) * residual"),
        ("torch.where(rate < 1, rate", "torch.where(rate < 2, rate"),
        ("return m.iteration >= self.iterations", "return m.iteration > self.iterations"),
        ("return m.inter < self.tolerance", "return m.intra < self.tolerance"),
        ("x.flatten(1).square().mean(1).sqrt()", "x.flatten(1).square().sum(1).sqrt()"),
    ),
    *_of(
        "inversion.path_bound", (BOUND,),
        ("error = carried + step", "error = carried"),
        ("phi[t] / kept * error", "phi[t] * error"),
        ("* scale, np.inf)", ", np.inf)"),
        ("residual = psi[t] / psi[t + 1] * intra[:, t + 1]", "residual = 0 * intra[:, t + 1]"),
        ("certain = records.status[ended] < Status.MAX_ITERATIONS", "certain = records.status[ended] < Status.NONFINITE"),
        ("return np.full(count, np.nan)", "return np.zeros(count)"),
    ),
    *_of(
        "inversion.step", (STATUSES, BOUND, LOOPS, SPECULATIVE, INVERT),
        ('schedule.as_left() if method.asks == "left"', 'schedule.as_left() if method.asks == "reached"'),
        ("estimate = torch.where(fresh, unknown, with_margin(seen))", "estimate = unknown"),
        ("reached = torch.where(rate > method.certify_below, Status.UNCERTIFIED, method.criterion.reached)", "reached = torch.full_like(m.iteration, method.criterion.reached)"),
        ("bound = m.intra.dtype, torch.where(rate > method.certify_below, torch.inf, m.bound)", "bound = m.intra.dtype, m.bound"),
        ("inside = (step > of.start * n)", "inside = (step >= of.start * n)"),
        ("(step < (of.start + of.length) * n)", "(step <= (of.start + of.length) * n)"),
        ("share = (c.level[step] - s.level) / (s.level - s.level_before)", "share = (c.level[step] - s.level_before) / (s.level - s.level_before)"),
        ("return torch.cat([first[:, None], first[:, None] + noise], 1)", "return torch.cat([first[:, None], first[:, None] + 0 * noise], 1)"),
        ("diverging = (m.iteration >= 3) & (watched > 10 * s.best)", "diverging = (m.iteration >= 3) & (watched > 1e30 * s.best)"),
        ("torch.where(m.iteration >= method.max_iterations,", "torch.where(m.iteration > method.max_iterations,"),
        ("unconfirmed = s.speculative & finite & (status != method.criterion.reached)", "unconfirmed = torch.zeros_like(finite)"),
        ("better = finite & (watched < 0.98 * s.best)", "better = finite & (watched > 0.98 * s.best)"),
        ("answer = where_row(status >= Status.MAX_ITERATIONS, counted.best_f, end)", "answer = end"),
        ("return torch.where(finite, status, Status.NONFINITE)", "return status"),
        ("weight = 1 / schedule.signal if", "weight = schedule.signal if"),
        ("why = torch.where(m.widest < method.tolerance, Status.AMBIGUOUS, why)", "pass"),
    ),
    *_of(
        "inversion.solvers", (LOOPS, SOLVERS),
        ("torch.lerp(z, f, self.damping)", "torch.lerp(f, z, self.damping)"),
        ("omega = torch.where(at.iteration == 2,", "omega = torch.where(at.iteration == 3,"),
        ("mixed = value - (gamma * d_value).sum(1)", "mixed = value + (gamma * d_value).sum(1)"),
        ("count = torch.where(fresh | (norm > last) | ~norm.isfinite(), 0, count)", "count = torch.where(~norm.isfinite(), 0, count)"),
        ("return at.iteration > self._plan(at, \"renoise\")", "return at.iteration >= self._plan(at, \"renoise\")"),
        ("torch.where(at.timestep < self.early_below,", "torch.where(at.timestep > self.early_below,"),
        ("kept = (k > first) & (k >= self._plan(at, \"end\"))", "kept = torch.zeros_like(k, dtype=torch.bool)"),
    ),
    *_of(
        "inversion.methods", (LOOPS,),
        ("late=Rounds(rounds, 8, 10)", "late=Rounds(rounds, 7, 10)"),
        ("early = Rounds(min(5, rounds), 0, 5)", "early = Rounds(min(6, rounds), 0, 5)"),
        ("Blend(eta=0.8, start=0.85, length=0.1)", "Blend(eta=0.7, start=0.85, length=0.1)"),
        ("    eta: float = 0.5\n", "    eta: float = 0.6\n"),
    ),
    *_of(
        "inversion.belm", (TWO_STEP, BELM),
        ("a = (h / after) ** 2 if", "a = (after / h) ** 2 if"),
        ("self.signal[i + 1] / self.signal[i - 1]", "self.signal[i - 1] / self.signal[i + 1]"),
        ("return a, 1 - a, -(h + a * after)", "return a, 1 - a, (h + a * after)"),
        ("before - b * x - c * levels.noise_of", "before + b * x - c * levels.noise_of"),
        ("Status.COMPLETED if NOISE_RMS[0] <= size <= NOISE_RMS[1] else Status.NOT_NOISE", "Status.COMPLETED"),
    ),
    *_of(
        "inversion.edict", (f"{PEERS}::test_edict_is_its_papers_loop",),
        ("MIXING = 0.93", "MIXING = 0.9"),
        ("    return x, p * y + (1 - p) * x\n", "    return x, p * y - (1 - p) * x\n"),
        ("        if i % 2:\n            x, y = y, x\n        x, y = (_up", "        x, y = (_up"),
    ),
    *_of(
        "inversion.spdinv", (SPD,),
        ("UPDATES = 25", "UPDATES = 24"),
        ("LEARNING_RATE = 1e-3", "LEARNING_RATE = 2e-3"),
        ("optimiser.zero_grad()", "pass"),
        ("and float(last[k]) >= THRESHOLD]", "]"),
    ),
    *_of(
        "inversion.renoise", (RENOISE,),
        ("ROUNDS, ROLLS = 4, 5", "ROUNDS, ROLLS = 3, 5"),
        ("if reference is not None and k >= plan.first:", "if reference is not None and k > plan.first:"),
        ("towards.clamp(-CLIP, CLIP)", "towards.clamp(-1, 1)"),
        ("self._regularised(total / averaged, reference, rows)", "total / averaged"),
        ("total += noise if plan.first <= k < plan.end else 0", "total += noise if plan.first <= k <= plan.end else 0"),
        ("float(self.schedule.noise[step]) * noise", "noise"),
    ),
    *_of(
        "inversion.stepwise", (RENOISE, f"{INVERT}::test_a_poisoned_row_leaves_the_others_bit_identical"),
        ("z = where_row(sound & (worst[at] < Status.NONFINITE).to(sound.device), found, z)", "z = found"),
        ("trajectory[rows, step + 1 :] = z[:, None]", "trajectory[rows, step + 2 :] = z[:, None]"),
    ),
    *_of(
        "inversion.flow_samplers", (FLOW, f"{PEERS}::test_flow_samplers_are_of_second_order"),
        ("velocity(z + h / 2 * first, sigma + h / 2)", "velocity(z + h / 2 * first, sigma + h)"),
        ("if middle is None or name == \"rf-solver\" else middle", "if middle is None else middle"),
        ("strength = c.gamma if up else (c.eta if i < round(c.until * len(steps)) else 0.0)", "strength = c.gamma if up else c.eta"),
        ("straight = (towards - z) / (1 - sigma) if up", "straight = (towards - z) / sigma if up"),
        ("return v + strength * (straight - v)", "return v - strength * (straight - v)"),
        ("eta: float = 0.9", "eta: float = 0.8"),
    ),
    *_of(
        "inversion.oom", (OOM,),
        ("self.rows = (size + 1) // 2", "self.rows = size"),
        ("if size == 1:\n                    raise", "if size == 0:\n                    raise"),
    ),
    *_of(
        "editing.guidance", (GUIDANCE,),
        ("return null + guidance.scale * (conditional - null)", "return conditional + guidance.scale * (conditional - null)"),
        ("self.pivots[:, -2 - step]", "self.pivots[:, -1 - step]"),
        ("rate, tolerance = 1e-2 * (1 - step / 100), 1e-5 + 2e-5 * step", "rate, tolerance = 1e-2, 1e-5 + 2e-5 * step"),
        ("1e-5 + 2e-5 * step", "1e-5"),
        ("if update == updates or not bool(running.any()):", "if update == updates - 1 or not bool(running.any()):"),
        ("embeddings.copy_(torch.where(running.view(-1, 1, 1), embeddings, kept))", "pass"),
    ),
    *_of(
        "editing.token_alignment", (ALIGNMENT,),
        ("matrix[i, j], kept[j] = 1, 1", "matrix[i, j], kept[j] = 1, 0"),
        ("matrix[min(max(j, source_end), len(kept) - 1), j], kept[j] = 1, 1", "matrix[j, j], kept[j] = 1, 1"),
        ("scale = 1 + (amplify - 1) * blends[1]", "scale = 1 + (amplify - 1) * blends[0]"),
        ("matrix[:, len(y) :] = torch.eye(length)[:, len(y) :]", "pass"),
        ("return scale * (kept * (source @ self.matrix[:, None]) + (1 - kept) * target)", "return kept * (source @ self.matrix[:, None]) + (1 - kept) * target"),
    ),
    *_of(
        "editing.prompt_to_prompt", (EDIT, ATTENTION),
        ("([step < last for last in steps]", "([step <= last for last in steps]"),
        ("b and step >= first", "b and step > first"),
        ("return heat > self.thresholds * peak", "return heat > 0 * peak"),
        ("mask = mask & self.regions", "pass"),
        ("F.max_pool2d(heat, 3, stride=1, padding=1)", "heat"),
        ("return torch.where(mask, target, source)", "return target"),
    ),
]  # fmt: skip


class Loader(importlib.abc.Loader):
    """Loads one module from changed source."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default one."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        exec(compile(self.source, self.path, "exec"), module.__dict__)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the mutated module before everyone else does."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """A spec for the one module."""
        if name != self.mutant.module:
            return None
        file = source_of(self.mutant)
        changed = file.read_text().replace(self.mutant.old, self.mutant.new)
        return importlib.util.spec_from_loader(name, Loader(str(file), changed))


def source_of(mutant: Mutant) -> Path:
    """The file that a mutant changes."""
    return ROOT / (mutant.module.replace(".", "/") + ".py")


def misplaced() -> list[Mutant]:
    """Mutants whose text does not stand exactly once in their module."""
    return [m for m in MUTANTS if source_of(m).read_text().count(m.old) != 1]


class Witness:
    """Of a pytest run: writes the name of each test that begins, and of each file that cannot be read, to a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """pytest's hook."""
        os.write(self.pipe, f"{nodeid}\n".encode())

    def pytest_collectreport(self, report: Any) -> None:
        """pytest's hook."""
        if report.failed:
            os.write(self.pipe, f"{report.nodeid}\n".encode())


def first_failure(tests: tuple[str, ...], mutant: Mutant | None = None) -> tuple[str | None, float]:
    """The first test that fails, None if all pass, with the mutant if there is one; and the processor seconds it took.

    In a child process; the long tests come last. One that takes more than ``LIMIT`` processor seconds in all fails: a
    mutant may loop for ever. Raises RuntimeError if pytest itself does not work.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run_tests(tests, mutant, writing)
    os.close(writing)
    with open(reading) as pipe:
        begun = pipe.read().splitlines()
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 2, -signal.SIGXCPU):  # 2: a test file could not even be read
        raise RuntimeError(f"pytest ended with {code} on {' '.join(tests)}")
    return begun[-1] if code else None, usage.ru_utime + usage.ru_stime


def _run_tests(tests: tuple[str, ...], mutant: Mutant | None, pipe: int) -> NoReturn:
    """In the child: pytest until the first failure, and away."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, resource.RLIM_INFINITY))
    if mutant:
        sys.meta_path.insert(0, Finder(mutant))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    for kind in ("not long and not chaos", "long and not chaos"):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            code = pytest.main([*options, "-m", kind, *tests], plugins=[Witness(pipe)])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            os._exit(int(code))
    os._exit(0)


def chosen_mutants(only: list[str], known: list[dict[str, Any]]) -> list[Mutant]:
    """Those of modules that ``only`` names, all without it, but for what is known already."""
    seen = {(row["module"], row["old"], row["new"]) for row in known}
    asked = [m for m in MUTANTS if not only or any(part in m.module for part in only)]
    return [m for m in asked if (m.module, m.old, m.new) not in seen]


def summary(rows: list[dict[str, Any]]) -> str:
    """Counts by module, and the survivors."""
    lines = ["| module | mutants | killed |", "|---|---|---|"]
    for module in dict.fromkeys(row["module"] for row in rows):
        killed = [row["killed"] for row in rows if row["module"] == module]
        lines.append(f"| {module.removeprefix('fpcore.')} | {len(killed)} | {sum(killed)} |")
    lines.append(f"| all | {len(rows)} | {sum(row['killed'] for row in rows)} |")
    survivors = [f"survived: {row['module']}: {row['old']} → {row['new']}" for row in rows if not row["killed"]]
    return "\n".join([*lines, *survivors])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of module names")
    parser.add_argument("--save", type=Path, help="append JSON lines; what is there already is not run again")
    chosen = parser.parse_args()
    if wrong := misplaced():
        sys.exit("\n".join(f"not exactly once in {m.module}: {m.old!r}" for m in wrong))
    os.environ.setdefault("HYPOTHESIS_PROFILE", "quick")
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and they take longer than many a test
    for library, classes in PRELOADED.items():  # once, before the children are forked
        module = importlib.import_module(library)
        for name in classes:
            getattr(module, name)
    exists = chosen.save and chosen.save.exists()
    rows = [json.loads(line) for line in chosen.save.read_text().splitlines()] if exists else []
    mutants = chosen_mutants(chosen.only, rows)
    for mutant in mutants:
        killer, seconds = first_failure(mutant.tests, mutant)
        row = {"module": mutant.module, "old": mutant.old, "new": mutant.new, "killed": killer is not None}
        rows.append(row | {"by": killer, "processor_seconds": round(seconds, 1)})
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
        if chosen.save:
            with chosen.save.open("a") as lines:
                lines.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    for killer in dict.fromkeys(row["by"] for row in rows if row["killed"]):
        if first_failure((killer,))[0]:
            sys.exit(f"fails without any mutant, and kills none: {killer}")
    print(summary(rows))
    sys.exit(sum(row["killed"] for row in rows) < 0.95 * len(rows))


if __name__ == "__main__":
    main()
