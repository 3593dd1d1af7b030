"""This version against another checkout: processor seconds of ``fixpoint dehaze``, and dB on rendered haze.

    git worktree add ../before COMMIT
    python -m benchmarks.versions ../before FOLDER [--haze uneven] [--photos 16] [--rounds 2] [--megapixels 12]

FOLDER: clear photographs that neither version was trained on, on which haze is rendered: ``--haze uneven``
(``fpcore.builtin.rendered_haze``, 1 − mean transmission from .2 to .6, what ``builtin:haze`` was trained on) or
``scenes`` (``fpcore.builtin.real_haze``, what the haze density network was trained on); or a folder of pairs,
``hazy`` and ``gt`` in it, ``--haze pairs``. Both versions dehaze the same files by their own defaults, in turn, each
time as a command of its own that is given one photograph and then all of them; user and system time of the command
with all its processes counts. What a photograph costs is the difference between the two over the number of the
others: start-up is not in it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpcore.builtin.photographs import list_photographs
from fpcore.builtin.real_haze import SEGMENTS, render_real_haze
from fpcore.builtin.rendered_haze import render_haze
from fpcore.dehazing.train_haze_density import segments_of


def uneven(image: Image.Image, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hazy and clear (3, H, W) in [0, 1]."""
    clear = tensor(image)
    amount = 0.2 + 0.4 * torch.rand(1, generator=generator)
    return render_haze(clear[None], amount, generator).image[0].clamp(0, 1), clear


def scenes(image: Image.Image, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hazy and clear (3, H, W) in [0, 1], under the same light."""
    segments = torch.from_numpy(segments_of(np.array(image)).astype(np.int64))[None] % SEGMENTS
    made = render_real_haze(tensor(image)[None], segments, generator, clear_share=0, hide=False)
    return made.image[0], made.clear[0]


def tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def write_photographs(chosen: argparse.Namespace, clear: Path, one: Path, all_: Path) -> None:
    """Evenly chosen photographs: clear, with haze in ``all_``, the first of them also in ``one``."""
    source = chosen.folder / "gt" if chosen.haze == "pairs" else chosen.folder
    paths = [path for path, _ in list_photographs([source])]
    generator = torch.Generator().manual_seed(0)
    for i, path in enumerate(paths[:: max(1, len(paths) // chosen.photos)][: chosen.photos]):
        image = Image.open(path).convert("RGB")
        if chosen.megapixels is not None:
            scale = (chosen.megapixels * 1e6 / (image.width * image.height)) ** 0.5
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        if chosen.haze == "pairs":
            hazy = tensor(Image.open(chosen.folder / "hazy" / path.name).convert("RGB"))
            pair = hazy, tensor(image)
        else:
            pair = (uneven if chosen.haze == "uneven" else scenes)(image, generator)
        veiled, plain = (Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()) for x in pair)
        plain.save(clear / f"{i:03d}.png")
        for where in (one, all_) if i == 0 else (all_,):
            veiled.save(where / f"{i:03d}.png", compress_level=1)


def command(tree: Path, source: Path, output: Path, home: Path, options: list[str]) -> float:
    """Processor seconds of one run of a checkout."""
    env = os.environ | {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1", "PREFECT_HOME": str(home)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [
        sys.executable,
        "-m",
        "flows.cli",
        "dehaze",
        str(source),
        str(output),
        "--no-report",
        "--json",
        *options,
    ]
    subprocess.run(arguments, check=True, env=env, cwd=home, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def decibels(output: Path, clear: Path) -> list[float]:
    """PSNR of each picture to the clear photograph."""
    found = []
    for path in sorted(clear.iterdir()):
        pair = (np.asarray(Image.open(where / path.name).convert("RGB"), float) for where in (output, clear))
        first, second = pair
        found.append(float(-10 * np.log10(max(np.square(first - second).mean(), 1e-6) / 255**2)))
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--haze", choices=["uneven", "scenes", "pairs"], default="uneven")
    parser.add_argument(
        "--options", nargs="*", default=[], help="of this version's command, without the dashes: method=…"
    )
    parser.add_argument("--megapixels", type=float, help="enlarge to so many; default: as they are")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    trees = {"before": chosen.before, "now": Path(__file__).parents[1]}
    with tempfile.TemporaryDirectory() as folder:
        clear, one, all_, home = (Path(folder, name) for name in ("clear", "one", "all", "home"))
        for where in (clear, one, all_, home):
            where.mkdir()
        write_photographs(chosen, clear, one, all_)
        print(f"{chosen.photos} photographs, hazy {np.mean(decibels(all_, clear)):.2f} dB", flush=True)
        options = {"before": [], "now": [f"--{option}" for option in chosen.options]}
        photo, alone = ({name: list[float]() for name in trees} for _ in range(2))
        for n in range(chosen.rounds):
            for name, tree in trees.items():
                single = command(tree, one, Path(folder, f"{name}-one-{n}"), home, options[name])
                output = Path(folder, f"{name}-all-{n}")
                alone[name].append(single)
                photo[name].append((command(tree, all_, output, home, options[name]) - single) / (chosen.photos - 1))
                print(
                    f"round {n + 1}, {name}: one photograph {single:.1f} processor s, each further one "
                    f"{photo[name][-1]:.3f}; {np.mean(decibels(output / 'images', clear)):.2f} dB",
                    flush=True,
                )
        for what, of in (("each further photograph", photo), ("one photograph with its start-up", alone)):
            ratios = [a / b for a, b in zip(of["before"], of["now"], strict=True)]
            print(f"{what}: {min(ratios):.1f} to {max(ratios):.1f} times less")


if __name__ == "__main__":
    main()
