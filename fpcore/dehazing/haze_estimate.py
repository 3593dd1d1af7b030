"""What the air before a photograph is like: density of haze as a map, the colour of the airlight, and how sure both are.

Networks say what each place looks like by itself and in the whole picture. Where nothing in a photograph is dark, the
dark percentile speaks too: I = J t + A (1 − t) with J ≥ 0 leaves nothing darker than the veil before it, and in most photographs
something is nearly black (the dark channel prior, He et al. 2009, for the photograph as a whole). A black thing near the camera
says nothing of the hills behind it, so the darker the dark percentile, the less it counts. The dark channel says the same of
each place; it takes pale things for haze, so it is trusted less, and most where the network is unsure of what it sees.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fpcore.dehazing.haze_density import (
    LEAST_TRANSMISSION,
    HazeDensityNet,
    Prediction,
    first_airlight,
    pooled_airlight,
)
from fpcore.evaluation.clarity import local_statistics
from fpcore.evaluation.dark_channel import dark_channel
from fpcore.small_unet import MULTIPLE

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
HazeWeights = Literal["research", "free"]
"""What the networks were trained on: photographs for research among them, or free ones alone (fpcore/builtin/haze_density.md)."""
BUILTIN = Path(__file__).parent.parent / "builtin"
ASKED: dict[HazeWeights, tuple[str, ...]] = {"research": ("research", "free"), "free": ("free",)}
"""Which networks are asked, by their files' names; where there are two, what they say is averaged."""
LONGEST_SIDE = 256
"""Pixels at which the network is asked: what it was trained at."""
CORRECTIONS = 2
"""How often the airlight is corrected by the network's own answer."""
DARK_SIDE = 640
"""Pixels to which a photograph is brought before its dark percentile is taken: finer ones say more about noise than about haze."""
TEXTURE_SIDE = 1024
"""Pixels at which a photograph's grain and texture are measured: about what a screen shows."""
DARK_SHARE = 0.001
"""Share of the pixels that may be darker than the dark percentile."""
EVEN_VEIL = (0.03, 0.10)
"""Dark percentile from which on the even veil counts, and from which on it counts in full (docs/studies/dehazing.md)."""
EVEN_SPREAD = 0.2
"""Scale of the error of the even veil's optical depth where it counts in full; the network tells its own."""
EVEN_AIRLIGHT = 0.5
"""Weight of the even veil's airlight where it counts in full, and the network's is 1."""
DARK_WINDOW, DARK_OMEGA, DARK_SPREAD = 15, 0.95, 0.4
"""Of the dark channel: pixels of its windows, the share of it that is called haze (He et al.), and the scale of the error of the
optical depth it tells."""
DARK_MOST = 0.25
"""The most that the dark channel weighs, and the network 1: it errs together over whole pale things, not place by place."""
BLACK = 0.01
"""How much darker than the dark percentile the veil is not: nothing is blacker than this."""
FRAME_BLACK, FRAME_WHITE, FRAME_SHARE = 0.03, 0.985, 0.98
"""A row or column at the border with this share of pixels below black or above white is a frame, no photograph."""


@dataclass(frozen=True)
class HazeView:
    """What is looked at of one photograph: ``picture`` (3, h, w) in [0, 1], sides multiples of ``MULTIPLE``; ``evidence`` (h, w), 0
    in frames and where the photograph is transparent, 1 elsewhere; ``texture`` (h, w), local standard deviation of its luma at up
    to ``TEXTURE_SIDE`` pixels; dark percentile ``dark`` in [0, 1]."""

    picture: Tensor
    evidence: Tensor
    texture: Tensor
    dark: float


@dataclass(frozen=True)
class HazeEstimate:
    """Of one photograph, at the size the network was asked at.

    ``picture`` (3, h, w) in [0, 1] that it was asked about; optical depth ``tau`` (h, w) ≥ 0; ``spread`` (h, w) > 0, the
    scale of its error; ``airlight`` (3,); ``evidence`` (h, w): 0 in frames, 1 elsewhere; dark percentile ``dark`` in
    [0, 1]; ``evaluations`` of the network.
    """

    picture: Tensor
    tau: Tensor
    spread: Tensor
    airlight: Tensor
    evidence: Tensor
    dark: float
    evaluations: int

    @property
    def density(self) -> Tensor:
        """1 − t, (h, w) in [0, 1); 0 in frames."""
        return (1 - torch.exp(-self.tau)) * self.evidence

    @property
    def amount(self) -> float:
        """Mean density over the photograph, frames left out."""
        return float(self.density.sum() / self.evidence.sum().clamp_min(1))


@cache
def haze_density_nets(weights: HazeWeights = "research") -> tuple[HazeDensityNet, ...]:
    """The shipped networks that are asked, in evaluation mode."""
    return tuple(_load_net(path) for path in weights_files(weights))


def _load_net(path: Path) -> HazeDensityNet:
    net = HazeDensityNet()
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


def weights_files(weights: HazeWeights) -> list[Path]:
    """Where the weights of the networks are that are asked."""
    return [BUILTIN / f"haze_density_{name}.safetensors" for name in ASKED[weights]]


@cache
def weights_digest(weights: HazeWeights = "research") -> str:
    """SHA-256 (hex) of the weights of the networks that are asked, one after the other."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights_files(weights))).hexdigest()


def network_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) at which a photograph is asked about: ``LONGEST_SIDE`` long, multiples of ``MULTIPLE``."""
    scale = LONGEST_SIDE / max(width, height)
    wide, high = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (width, height))
    return wide, high


def dark_percentile(pixels: Samples, alpha: Samples | None = None) -> float:
    """The least of the three colours, in [0, 1], that all but ``DARK_SHARE`` of a photograph (H, W, 3) exceed.

    Taken at ``DARK_SIDE`` pixels at most, by area averages. Where ``alpha`` (H, W) is 0, and in frames, there is no photograph.
    """
    least = np.minimum(pixels[..., 0], pixels[..., 1])
    np.minimum(least, pixels[..., 2], out=least)
    if alpha is not None:
        least[alpha == 0] = np.iinfo(pixels.dtype).max
    image = Image.fromarray(least if least.dtype == np.uint8 else least.astype(np.float32))
    image.thumbnail((DARK_SIDE, DARK_SIDE), Image.Resampling.BOX, reducing_gap=None)
    small = torch.from_numpy(np.array(image, np.float64)) / float(np.iinfo(pixels.dtype).max)
    shown = small[without_frames(small[None]) > 0]
    return float(np.quantile(shown.numpy(), DARK_SHARE))


def without_frames(picture: Tensor) -> Tensor:
    """(h, w) of a picture (C, h, w): 0 in rows and columns along the border that are black or white all along, 1 elsewhere."""
    plain = ((picture.amax(0) < FRAME_BLACK) | (picture.amin(0) > FRAME_WHITE)).float()
    inside = torch.ones_like(plain)
    for along in (1, 0):
        line = (plain.mean(along) > FRAME_SHARE).long()
        before, after = int(line.cumprod(0).sum()), int(line.flip(0).cumprod(0).sum())
        if before < len(line):  # the next line is a mixture of frame and photograph
            inside.narrow(1 - along, 0, before + 1 if before else 0).zero_()
            inside.narrow(1 - along, len(line) - (after + 1 if after else 0), after + 1 if after else 0).zero_()
    return inside if bool(inside.any()) else torch.ones_like(inside)


def view_photograph(pixels: Samples, alpha: Samples | None = None) -> HazeView:
    """Look at a photograph (H, W, 3) uint8 or uint16, transparent where ``alpha`` (H, W) is 0."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    image, size = Image.fromarray(eight), network_size(pixels.shape[1], pixels.shape[0])
    image.thumbnail((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.BOX, reducing_gap=None)
    picture = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BOX))).permute(2, 0, 1).float() / 255
    evidence = without_frames(picture)
    if alpha is not None:
        opaque = Image.fromarray((alpha > 0).astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        evidence = evidence * (torch.from_numpy(np.array(opaque)) > 127)
    luma = torch.from_numpy(np.array(image.convert("L"), np.float32)) / 255
    texture = F.interpolate(local_statistics(luma)[0].float()[None, None], picture.shape[1:], mode="area")[0, 0]
    return HazeView(picture, evidence, texture, dark_percentile(pixels, alpha))


def estimate_haze(view: HazeView, nets: Sequence[HazeDensityNet] | None = None) -> HazeEstimate:
    """Estimate the haze of a photograph; each network, None = the default ones, is asked ``CORRECTIONS`` + 1 times."""
    answers = [_asked(net, view) for net in (haze_density_nets() if nets is None else nets)]
    tau, spread, airlight = (torch.stack(said).mean(0) for said in zip(*answers, strict=True))
    evaluations = len(answers) * (CORRECTIONS + 1)
    seen = HazeEstimate(view.picture, tau, spread, airlight, view.evidence, view.dark, evaluations)
    return _not_below_black(_with_dark_channel(_with_even_veil(seen)))


def _asked(net: HazeDensityNet, view: HazeView) -> tuple[Tensor, Tensor, Tensor]:
    """What one network says: τ (h, w), its spread (h, w), the airlight (3,)."""
    image, shown = view.picture[None], view.evidence[None, None]
    airlight = first_airlight(image, shown)
    for _ in range(CORRECTIONS):
        airlight = (airlight * _answered_airlight(net(image / airlight), shown)).clamp(0.2, 1.05)
    answer = net(image / airlight)
    tau, spread = (
        F.interpolate(x, view.picture.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        for x in (answer.tau, answer.tau_spread.exp())
    )
    return tau, spread, airlight.view(3)


def even_estimate(view: HazeView) -> HazeEstimate:
    """The haze if it is even and neutral: A the brightest value of 32 × 32, t what makes the dark percentile black."""
    light = float(F.adaptive_avg_pool2d(view.picture[None] * view.evidence, 32).amax())
    t = min(max(1 - (view.dark + BLACK) / max(light, 0.1), 0.05), 1.0)
    tau = torch.full_like(view.evidence, -math.log(t))
    airlight = torch.full((3,), light)
    return HazeEstimate(view.picture, tau, torch.ones_like(tau), airlight, view.evidence, view.dark, 0)


def _answered_airlight(answer: Prediction, shown: Tensor) -> Tensor:
    hidden = 1 - F.interpolate(shown, answer.tau.shape[2:], mode="area")
    return pooled_airlight(
        Prediction(answer.tau, answer.tau_spread, answer.airlight, answer.airlight_spread + 9 * hidden)
    )


def _with_even_veil(e: HazeEstimate) -> HazeEstimate:
    """Averaged with what the dark percentile says, by precision, in proportion to how much it knows."""
    low, high = EVEN_VEIL
    known = min(max((e.dark - low) / (high - low), 0.0), 1.0)
    if known == 0:
        return e
    blocks = F.adaptive_avg_pool2d(e.picture[None] * e.evidence, 32).flatten(2)[0]
    brightest = blocks[:, blocks.sum(0).argmax()].clamp_min(0.1)
    tau = -math.log(min(max(1 - (e.dark + BLACK) / float(blocks.amax()), 0.02), 1.0))
    weight, light = known * (_mean_spread(e) / EVEN_SPREAD) ** 2, known * EVEN_AIRLIGHT
    airlight = (e.airlight + light * brightest) / (1 + light)
    return replace(e, tau=(e.tau + weight * tau) / (1 + weight), airlight=airlight)


def _with_dark_channel(e: HazeEstimate) -> HazeEstimate:
    """Averaged by precision with what the dark channel says at each place: t = 1 − ω min I/A over colours and a window."""
    hidden = 1 - e.evidence  # frames are no dark things
    relative = e.picture / e.airlight.view(3, 1, 1) + hidden
    dark = dark_channel(relative[None].clamp_max(1), DARK_WINDOW)[0, 0]
    tau = -torch.log((1 - DARK_OMEGA * dark).clamp_min(LEAST_TRANSMISSION))
    weight = min((_mean_spread(e) / DARK_SPREAD) ** 2, DARK_MOST)
    return replace(e, tau=(e.tau + weight * tau) / (1 + weight))


def _mean_spread(e: HazeEstimate) -> float:
    return float((e.spread * e.evidence).sum() / e.evidence.sum().clamp_min(1))


def _not_below_black(e: HazeEstimate) -> HazeEstimate:
    """Thinned where the photograph would become negative: t ≥ 1 − min I/A over the colours, as J ≥ 0.

    Each pixel by itself: over a window, as in the dark channel prior, haze would be left around what is near and dark.
    """
    relative = e.picture / e.airlight.view(3, 1, 1)
    most = -torch.log((1 - relative.amin(0)).clamp(0.02, 1))
    return replace(e, tau=torch.minimum(e.tau, most))
