"""How much haze a photograph holds: what the model sees, and what the photograph's darkest value allows.

The model is asked as a diffusion classifier: among prompts for growing amounts of haze, the one under which it denoises the
photograph best is the most likely (Li et al. 2023, *Your Diffusion Model is Secretly a Zero-Shot Classifier*). Amounts
between two prompts are asked about by interpolating their embeddings.

The darkest value is the other witness. I = J t + A (1 − t) with J ≥ 0 leaves no pixel darker than the veil before it, and
in most clear photographs something is nearly black at full resolution, if not in the small picture that the model sees (this
is the dark channel prior, He et al. 2009, for the photograph as a whole).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fpcore.models.model import Condition, Model

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
TIMESTEPS = tuple(range(50, 1000, 75))
"""Few or middle timesteps tell the amount worse: on 46 photographs with rendered haze the correlation with the true
amount is .73 for 300 to 800, .72 for these at equal weights and .80 weighted as ``estimate_amount`` does."""
LONGEST_SIDE = 640
"""Pixels to which a photograph is brought before its darkest value is taken: finer ones say more about noise than about haze."""
DARKEST_SHARE = 0.001
"""Share of the pixels that may be darker than the darkest value."""
COEFFICIENTS = (0.51, 0.41, 0.095)
"""Of the amount that the model sees (with the seed 0), of the darkest value, and the constant: least squares on 145 held-out
photographs with rendered haze. ``benchmarks.haze_amount`` fits them anew; other renderings gave .41, .49 and .11."""


@dataclass(frozen=True)
class HazeScale:
    """Prompts for evenly spaced amounts of haze (1 − mean transmission) from none to ``densest``."""

    prompts: tuple[str, ...]
    densest: float

    @property
    def spacing(self) -> float:
        """The amount between two prompts."""
        return self.densest / (len(self.prompts) - 1)

    def condition(self, model: Model, amount: Tensor) -> Condition:
        """The condition for each amount (B,), interpolated between the two nearest prompts; the first for an amount of NaN."""
        position = (amount.cpu().nan_to_num(0.0) / self.spacing).clamp(0, len(self.prompts) - 1)
        low = position.long().clamp_max(len(self.prompts) - 2)
        embedded = model.embed(self.prompts)
        device = embedded.embeddings.device
        return embedded.rows(low.to(device)).lerp(embedded.rows((low + 1).to(device)), (position - low).to(device))


@torch.no_grad()
def denoising_errors(
    model: Model, latents: Tensor, condition: Condition, timesteps: Sequence[int], seed: int, batch_size: int
) -> Tensor:
    """Mean squared error of the network's own target for each image under each row of ``condition`` at each timestep.

    latents (M, C, h, w) → (M, J, T). Every image and condition meets the same noises, so that differences are the
    condition's alone.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(timesteps), *latents.shape[1:]), generator=generator).to(latents)
    noise, timesteps = torch.cat([noise, -noise]), [*timesteps, *timesteps]  # antithetic: the odd part cancels
    alphas = model.scheduler.alphas_cumprod.to(latents)[timesteps]
    m, j, n = len(latents), len(condition), len(timesteps)
    index = torch.cartesian_prod(torch.arange(m), torch.arange(j), torch.arange(n)).to(latents.device)
    errors = []
    for part in torch.split(index, batch_size):
        image, which, at = part.unbind(1)
        a, s = (x[at].view(-1, 1, 1, 1) for x in (alphas.sqrt(), (1 - alphas).sqrt()))
        z = a * latents[image] + s * noise[at]
        t = torch.tensor(timesteps, device=latents.device)[at]
        target = {"epsilon": noise[at], "v_prediction": a * noise[at] - s * latents[image], "sample": latents[image]}
        output = model.predict(z, t, condition.rows(which))
        errors.append((output - target[model.scheduler.config.prediction_type]).square().mean((1, 2, 3)))
    return torch.cat(errors).view(m, j, 2, n // 2).mean(2)


def estimate_amount(
    model: Model, latents: Tensor, scale: HazeScale, *, seed: int = 0, batch_size: int = 64
) -> tuple[Tensor, int]:
    """The most likely amount of haze in each image, (M,) in [0, ``scale.densest``], and the evaluations spent per image.

    Timesteps weigh sqrt(α/σ), half way (as a geometric mean) between equal weights and those of the likelihood, α/σ for
    v under a cosine schedule. The errors over the scale's prompts are close to a parabola around the best: its vertex is
    taken.
    """
    candidates = torch.linspace(0, scale.densest, len(scale.prompts))
    condition = scale.condition(model, candidates)
    alphas = model.scheduler.alphas_cumprod[list(TIMESTEPS)].cpu().float()
    weights = (alphas / (1 - alphas)) ** 0.25
    errors = denoising_errors(model, latents, condition, TIMESTEPS, seed, batch_size).cpu() @ (weights / weights.sum())
    best = errors.argmin(1)
    inner = best.clamp(1, len(candidates) - 2)
    left, middle, right = (errors.gather(1, (inner + k)[:, None])[:, 0] for k in (-1, 0, 1))
    curvature = (left - 2 * middle + right).clamp_min(1e-12)
    offset = (0.5 * (left - right) / curvature).clamp(-1, 1)
    amount = ((inner + offset) * scale.spacing).clamp(0, scale.densest)
    return amount, 2 * len(candidates) * len(TIMESTEPS)


def darkest_value(pixels: Samples, alpha: Samples | None = None) -> float:
    """The least of the three colours, in [0, 1], that all but ``DARKEST_SHARE`` of a photograph (H, W, 3) exceed.

    Taken at ``LONGEST_SIDE`` pixels at most, by area averages. Where ``alpha`` (H, W) is 0 there is no photograph.
    """
    least = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    if alpha is not None:
        least[alpha == 0] = np.iinfo(pixels.dtype).max
    image = Image.fromarray(least if least.dtype == np.uint8 else least.astype(np.float32))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return float(np.quantile(np.asarray(image), DARKEST_SHARE)) / float(np.iinfo(pixels.dtype).max)


def combined_amount(seen: Tensor, darkest: Tensor) -> Tensor:
    """The amount of haze from what the model sees and the darkest value, all (M,): linear, by ``COEFFICIENTS``."""
    by_model, by_darkest, constant = COEFFICIENTS
    return by_model * seen + by_darkest * darkest + constant
