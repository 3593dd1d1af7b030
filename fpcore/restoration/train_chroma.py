"""Train the network that tells likely colours:  python -m fpcore.restoration.train_chroma FOLDER… --out DIR

On photographs in colour alone. The loss is how different the colours look, the colour difference CIE94 in its symmetric form.
Photographs whose name's SHA-1 is a multiple of ``KEPT_OUT`` are never trained on. Killed and started again it goes on
from its checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from fpcore.builtin.photographs import list_photographs
from fpcore.evaluation.clarity import cielab
from fpcore.restoration.chroma import ChromaNet, with_chroma
from fpcore.restoration.degradation import luma
from fpcore.small_unet import STRIDE

log = logging.getLogger(__name__)
KEPT_OUT = 20
CROP = 96
SHORT_SIDE = 112
GREY_BELOW = 0.01
"""Mean absolute colour difference of a photograph that has no colours to learn from."""


def is_kept_out(path: Path) -> bool:
    """Whether a photograph is one to measure with."""
    return int(hashlib.sha1(path.name.encode(), usedforsecurity=False).hexdigest(), 16) % KEPT_OUT == 0


def load(path: Path) -> Tensor:
    """A photograph (3, H, W) uint8, short side ``SHORT_SIDE``."""
    file = Image.open(path)
    file.draft("RGB", (2 * SHORT_SIDE, 2 * SHORT_SIDE))
    image = file.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    size = (max(SHORT_SIDE, round(image.width * scale)), max(SHORT_SIDE, round(image.height * scale)))
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BOX))).permute(2, 0, 1)


def differences(pictures: Tensor) -> Tensor:
    """R − Y and B − Y (B, 2, H, W) of pictures (B, 3, H, W)."""
    return pictures[:, [0, 2]] - luma(pictures)


def draw(photos: Sequence[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` crops (count, 3, CROP, CROP) in [0, 1], squeezed from at least half of either side, and their heights."""
    pixels, heights = [], []
    for _ in range(count):
        photo = photos[int(torch.randint(len(photos), (), generator=generator))]
        _, h, w = photo.shape
        u, v, tall, wide, mirror, light = torch.rand(6, generator=generator).tolist()
        ch, cw = int(h * (0.5 + 0.5 * tall)), int(w * (0.5 + 0.5 * wide))
        y, x = int(u * (h - ch + 1)), int(v * (w - cw + 1))
        crop = photo[None, :, y : y + ch, x : x + cw].float() / 255
        crop = F.interpolate(crop, (CROP, CROP), mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)
        crop = crop ** (0.8 + 0.5 * light)
        pixels.append(crop.flip(-1) if mirror < 0.5 else crop)
        heights.append((y + (torch.arange(CROP) + 0.5) * ch / CROP) / h)
    return torch.stack(pixels), torch.stack(heights)


def difference_seen(found: Tensor, true: Tensor) -> Tensor:
    """Mean colour difference CIE94 of pictures (B, 3, H, W), sRGB, with the mean of both chromas in its weights."""
    (l1, a1, b1), (l2, a2, b2) = (cielab(x.clamp(1e-3, 1).transpose(0, 1)) for x in (found, true))
    c1, c2 = (a1**2 + b1**2 + 1e-3).sqrt(), (a2**2 + b2**2 + 1e-3).sqrt()
    chroma = (c1 - c2) ** 2
    hue = ((a1 - a2) ** 2 + (b1 - b2) ** 2 - chroma).clamp_min(0)
    mean = (c1 + c2) / 2
    squares = (l1 - l2) ** 2 + chroma / (1 + 0.045 * mean) ** 2 + hue / (1 + 0.015 * mean) ** 2
    mean_difference: Tensor = (squares + 0.05).sqrt().mean()
    return mean_difference


def train(
    photos: Sequence[Tensor], out: Path, minutes: float, batch: int, rate: float, seed: int, start: Path | None = None
) -> ChromaNet:
    """Train for ``minutes`` in all, from the weights ``start`` if given; the average of the weights comes back."""
    torch.manual_seed(seed)
    net, average = ChromaNet(), ChromaNet().requires_grad_(False)
    if start is not None:
        net.load_state_dict(load_file(start))
    average.load_state_dict(net.state_dict())
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    checkpoint, i, spent, sums = out / "checkpoint.pt", 0, 0.0, [0.0, 0.0]
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"]), average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        i, spent = saved["iteration"], saved["seconds"]
    started = time.monotonic()
    while (seconds := spent + time.monotonic() - started) < 60 * minutes:
        left = 1 - seconds / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (i + 1) / 100, left / 0.6)
        pictures, heights = draw(photos, batch, torch.Generator().manual_seed((seed << 32) + i))
        grey = luma(pictures)
        found = net(grey.contiguous(memory_format=torch.channels_last), heights)
        small, known = F.avg_pool2d(pictures, STRIDE), F.avg_pool2d(grey, STRIDE)
        loss = difference_seen(with_chroma(known, found), small)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        i += 1
        torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - min(0.998, i / (i + 10)))
        sums = [
            sums[0] + float(loss.detach()) / 50,
            sums[1] + float(difference_seen(known.expand_as(small), small)) / 50,
        ]
        if i % 50 == 0:
            log.info("%d iterations, %.1f minutes: difference %.3f, of grey %.3f", i, seconds / 60, *sums)
            sums = [0.0, 0.0]
        if i % 200 == 0:
            _save(out, net, average, optimizer, i, seconds)
    _save(out, net, average, optimizer, i, spent + time.monotonic() - started)
    return average


def _save(
    out: Path, net: ChromaNet, average: ChromaNet, optimizer: torch.optim.Optimizer, i: int, seconds: float
) -> None:
    state = {"net": net.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "iteration": i, "seconds": seconds}, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").replace(out / "checkpoint.pt")
    half = {name: x.half().contiguous() for name, x in average.state_dict().items()}
    save_file(half, out / "chroma.safetensors")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fpcore.restoration.train_chroma", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of photographs in colour")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and weights go here")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--minutes", type=float, default=40, help="resumed time included")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = [load(path) for path, _ in list_photographs(args.folders) if not is_kept_out(path)]
    photos = [photo for photo in photos if float(differences(photo[None].float() / 255).abs().mean()) > GREY_BELOW]
    log.info("%d photographs", len(photos))
    train(photos, args.out, args.minutes, args.batch_size, args.learning_rate, args.seed, args.start)


if __name__ == "__main__":
    main()
