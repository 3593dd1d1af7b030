"""How the small networks of the package are trained: against the clock, from checkpoints, with averaged weights.

AdamW; the learning rate rises over a hundred iterations, and falls linearly to zero over the last part of the time. Killed
and started again, training goes on from its checkpoint and draws what it would have drawn.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)
AVERAGE = 0.998
LOG_EVERY, SAVE_EVERY = 50, 200
Loss = Callable[[torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""What is minimised on examples drawn with a generator, and what is said of it."""
Parts = dict[str, nn.Module | torch.optim.Optimizer]
"""What a checkpoint holds the states of."""


@dataclass(frozen=True)
class Training:
    """``out``: folder of checkpoint and weights; ``name``: of the weights, in float16. ``minutes``: in all, resumed time
    included; ``rate``: learning rate; ``falls``: share of the time over which it falls; ``seed``: of the examples."""

    out: Path
    name: str
    minutes: float
    rate: float
    weight_decay: float
    falls: float
    seed: int

    def of(self, net: nn.Module, loss: Loss, start: Path | None = None) -> nn.Module:
        """Train ``net``, from the weights ``start`` if given; the average of the weights comes back, in a network like it."""
        if start is not None:
            net.load_state_dict(load_file(start))
        average = copy.deepcopy(net).requires_grad_(False)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.rate, weight_decay=self.weight_decay)
        parts: Parts = {"net": net, "average": average, "optimizer": optimizer}
        i, spent = 0, 0.0
        if (self.out / "checkpoint.pt").is_file():
            saved = torch.load(self.out / "checkpoint.pt", weights_only=True)
            for part, held in parts.items():
                held.load_state_dict(saved[part])
            i, spent = saved["iteration"], saved["seconds"]
        started, sums = time.monotonic(), dict[str, float]()
        while (seconds := spent + time.monotonic() - started) < 60 * self.minutes:
            left = 1 - seconds / (60 * self.minutes)
            for group in optimizer.param_groups:
                group["lr"] = self.rate * min(1.0, (i + 1) / 100, left / self.falls)
            total, said = loss(torch.Generator().manual_seed((self.seed << 32) + i))
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            i += 1
            decay = min(AVERAGE, i / (i + 10))
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
            sums = {name: sums.get(name, 0.0) + float(term.detach()) / LOG_EVERY for name, term in said.items()}
            if i % LOG_EVERY == 0:
                terms = ", ".join(f"{name} {value:.4f}" for name, value in sums.items())
                log.info("%d iterations, %.1f minutes: %s", i, seconds / 60, terms)
                sums = {}
            if i % SAVE_EVERY == 0:
                self._save(parts, i, seconds)
        self._save(parts, i, spent + time.monotonic() - started)
        return average

    def _save(self, parts: Parts, i: int, seconds: float) -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**states, "iteration": i, "seconds": seconds}, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")
        half = {name: x.half().contiguous() for name, x in states["average"].items()}
        save_file(half, self.out / f"{self.name}.safetensors")


def training_options(module: str, description: str | None, *, minutes: float, batch: int) -> argparse.ArgumentParser:
    """The command line of ``python -m module``, with these defaults; what is special is added by the caller."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of photographs to learn from")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and weights go here")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--minutes", type=float, default=minutes, help="resumed time included")
    parser.add_argument("--batch-size", type=int, default=batch)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def begin(args: argparse.Namespace) -> None:
    """Threads, log and folder of a training."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
