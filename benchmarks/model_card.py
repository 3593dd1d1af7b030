"""Held-out figures of a built-in model's card: denoising loss by timestep, round trip.

    python -m benchmarks.model_card builtin:haze
    python -m benchmarks.model_card builtin:scenes

On 54 free pictures that no model was trained on (six photographs of scikit-image and scikit-learn, whole and in crops).
``clear`` are the pictures themselves, ``hazy`` the same with haze rendered on them. The loss is the mean squared error of v; the
same four noises at each timestep for all. The round trip is inverted and regenerated under one prompt, 25 steps, the certified
criterion at its default tolerance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.inversion import free_crops
from fpcore.builtin.rendered_haze import render_haze
from fpcore.dehazing.dehaze import DehazeSettings, dehaze
from fpcore.evaluation.metrics import psnr
from fpcore.models.load import load_model
from fpcore.models.model import Condition, Model

TIMESTEPS = (50, 150, 300, 500, 700, 850, 950)
PROMPTS = {
    "builtin:haze": (
        ("clear", "clear"),
        ("clear", "haze"),
        ("clear", ""),
        ("hazy", "haze"),
        ("hazy", "clear"),
        ("hazy", ""),
    ),
    "builtin:scenes": (("clear", ""), ("clear", "a photo of a garden"), ("clear", "a photo of an ocean")),
}


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


def losses(model: Model, pictures: Tensor, prompt: str, seeds: Sequence[int] = (0, 1)) -> list[float]:
    """Mean over the pictures at each of ``TIMESTEPS``."""
    latents, condition = model.encode(pictures * 2 - 1), model.embed([prompt])
    found = [denoising_errors(model, latents, condition, TIMESTEPS, seed, 32)[:, 0].mean(0) for seed in seeds]
    return torch.stack(found).mean(0).tolist()


def round_trip(model: Model, pictures: Tensor, prompt: str) -> Tensor:
    """dB of each picture."""
    same = DehazeSettings(prompt=prompt, target_prompt=prompt, batch_size=16)
    back = dehaze(model, pictures, same).result.clamp(0, 1)
    return psnr(back, pictures)


def main() -> None:
    """Entry point: prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(PROMPTS))
    name = parser.parse_args().model
    model = load_model(name)
    small = [picture.convert("RGB").resize(model.image_size[::-1], Image.Resampling.BOX) for picture in free_crops()]
    clear = torch.from_numpy(np.stack([np.asarray(picture) for picture in small])).permute(0, 3, 1, 2).float() / 255
    generator = torch.Generator().manual_seed(0)
    hazy = render_haze(clear, torch.rand(len(clear), generator=generator) * 0.6 + 0.15, generator).image.clamp(0, 1)
    print("| pictures | prompt | " + " | ".join(f"t = {t}" for t in TIMESTEPS) + " | round trip, mean (least), dB |")
    print("|---" * (len(TIMESTEPS) + 3) + "|")
    for kind, prompt in PROMPTS[name]:
        pictures = clear if kind == "clear" else hazy
        loss, trip = losses(model, pictures, prompt), round_trip(model, pictures, prompt)
        cells = [kind, f"`{prompt}`" if prompt else "null text", *(f"{value:.3f}" for value in loss)]
        print("| " + " | ".join([*cells, f"{trip.mean():.1f} ({trip.min():.1f})"]) + " |", flush=True)


if __name__ == "__main__":
    main()
