"""Train a built-in model: ``python -m fpcore.builtin.train haze --data DIR --out DIR``.

v-prediction (Salimans & Ho 2022) under a cosine schedule that ends near zero signal, AdamW, an exponential moving
average, a constant learning rate that falls to zero over the last quarter. Interrupted, the same command resumes from its
checkpoint; ``model/`` in the output is a diffusers folder like any other.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from fpcore.builtin.photographs import load_crops
from fpcore.builtin.recipes import RECIPES, Mixture, Recipe, default_folders
from fpcore.builtin.text import build_text_encoder, build_tokenizer, token_ids
from fpcore.models.codec import SpaceToDepth
from fpcore.models.load import load_model

log = logging.getLogger("fpcore.builtin.train")


def cosine_betas(steps: int = 1000, last_alpha_bar: float = 6e-5, offset: float = 0.008) -> list[float]:
    """Betas of ᾱ(u) = cos²(((u + s)/(1 + s)) · π/2 · k) (Nichol & Dhariwal 2021), k chosen so that ᾱ_T = ``last_alpha_bar``."""
    k = math.acos(math.sqrt(last_alpha_bar)) / (math.pi / 2)
    angles = [(u / steps + offset) / (1 + offset) * math.pi / 2 * k for u in range(steps + 1)]
    alpha_bar = [math.cos(a) ** 2 for a in angles]
    return [1 - alpha_bar[i + 1] / alpha_bar[i] for i in range(steps)]


def build_scheduler() -> Any:
    """The schedule the built-in models are trained and used with."""
    return DDIMScheduler(
        trained_betas=cosine_betas(),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="log-sigma",
    )


class Denoiser(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, recipe: Recipe, tokenizer: object) -> None:
        super().__init__()
        channels, levels = 3 * recipe.patch_size**2, len(recipe.block_out_channels)
        self.tokenizer = tokenizer
        self.token_ids: dict[str, Tensor] = {}
        self.text_encoder = build_text_encoder(tokenizer, recipe.text_width, recipe.text_layers)  # type: ignore[arg-type]
        unet: Any = UNet2DConditionModel(
            sample_size=recipe.image_size // recipe.patch_size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=recipe.block_out_channels,
            layers_per_block=recipe.layers_per_block,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=recipe.text_width,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        self.unet = unet.to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, t: Tensor, condition: Mixture) -> Tensor:
        """The predicted velocity v, as z: (B, C, h, w)."""
        device = z.device
        unique = sorted(set(condition.prompts))
        for prompt in unique:
            if prompt not in self.token_ids:
                self.token_ids[prompt] = token_ids(self.tokenizer, [prompt])[0]  # type: ignore[arg-type]
        ids = torch.stack([self.token_ids[prompt] for prompt in unique]).to(device)
        embeddings = self.text_encoder(ids).last_hidden_state
        place = {prompt: i for i, prompt in enumerate(unique)}
        row = torch.tensor([place[p] for p in condition.prompts]).to(device)
        low, high = embeddings[row[condition.low.to(device)]], embeddings[row[condition.high.to(device)]]
        mixed = torch.lerp(low, high, condition.weight.to(device, low.dtype).view(-1, 1, 1))
        velocity: Tensor = self.unet(z, t, mixed).sample
        return velocity


def _bfloat16_is_quick(device: torch.device) -> bool:
    """Processors without instructions for it take ten times as long as in float32."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def loss_per_row(
    model: Denoiser, scheduler: Any, z0: Tensor, condition: Mixture, g: torch.Generator, recipe: Recipe
) -> Tensor:
    """Mean squared error of v per row. Both halves of the batch see the same noise at the same timestep."""
    half = (len(z0) + 1) // 2
    t = (1000 * torch.rand(half, generator=g, device=g.device) ** recipe.noise_power).long().clamp_max(999)
    t = t.repeat(2)[: len(z0)].to(z0.device)
    drawn = torch.randn((half, *z0.shape[1:]), generator=g, device=g.device)
    noise = drawn.repeat(2, 1, 1, 1)[: len(z0)].to(z0.device)
    z = scheduler.add_noise(z0, noise, t)
    target = scheduler.get_velocity(z0, noise, t)
    with torch.autocast(z0.device.type, torch.bfloat16, enabled=_bfloat16_is_quick(z0.device)):
        velocity = model(z, t, condition)
    error = (velocity.float() - target).unflatten(1, (3, -1))  # colours, pixels of a patch
    brightness = (error * error.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    weighted = brightness + math.sqrt(recipe.chroma_weight) * (error - brightness)
    loss: Tensor = weighted.square().mean((1, 2, 3, 4))
    return loss


def parameter_groups(model: Denoiser, recipe: Recipe) -> list[dict[str, Any]]:
    """The optimizer's groups: what hears the text, at ``recipe.text_rate`` times the learning rate, and the rest."""
    hearing: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (hearing if "attn2" in name or name.startswith("text_encoder") else rest).append(parameter)
    return [{"params": hearing, "multiple": recipe.text_rate}, {"params": rest, "multiple": 1.0}]


@torch.no_grad()
def sample(model: Denoiser, scheduler: Any, recipe: Recipe, prompts: list[str], per_prompt: int) -> Image.Image:
    """A sheet of samples from the same noises, one row a prompt, 25 of diffusers' DDIM steps."""
    scheduler = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(25)
    device = next(model.parameters()).device
    channels, side = 3 * recipe.patch_size**2, recipe.image_size // recipe.patch_size
    noise = torch.randn((per_prompt, channels, side, side), generator=torch.Generator().manual_seed(1))
    z = noise.repeat(len(prompts), 1, 1, 1).to(device)
    index = torch.arange(len(prompts)).repeat_interleave(per_prompt)
    condition = Mixture(prompts, index, index, torch.zeros(len(index)))
    for t in scheduler.timesteps:
        velocity = model(z, t.expand(len(z)).to(device), condition).float()
        z = scheduler.step(velocity, t, z).prev_sample
    pixels = SpaceToDepth(recipe.patch_size).decode(z.cpu()).clamp(-1, 1)
    size = recipe.image_size
    sheet = (
        pixels.view(len(prompts), per_prompt, 3, size, size).permute(0, 3, 1, 4, 2).reshape(len(prompts) * size, -1, 3)
    )
    return Image.fromarray(((sheet + 1) * 127.5).byte().numpy())


def save_model(folder: Path, model: Denoiser, scheduler: Any, recipe: Recipe) -> None:
    """Write a diffusers folder with fp16 weights."""
    half = copy.deepcopy(model).half()
    half.unet.save_pretrained(folder / "unet", safe_serialization=True)
    half.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    scheduler.save_pretrained(folder / "scheduler")
    SpaceToDepth(recipe.patch_size).save_config(folder / "vae")
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["fpcore.models.codec", "SpaceToDepth"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", **parts}, indent=2) + "\n"
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fpcore.builtin.train", description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs, optionally captioned")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, log, samples and model/ go here")
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="end by then at the latest, resumed time included"
    )
    parser.add_argument("--batch-size", type=int, help="default: the recipe's, which is for a CPU; 2048 on a GPU")
    parser.add_argument("--crops-per-photo", type=int, help="default: the recipe's")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--every", type=int, default=250, help="iterations between checkpoints")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--start-from", help="a model of the same sizes, to start from its weights")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, or go on training, until ``--iterations``."""
    args = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    recipe, device = RECIPES[args.name], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = {"batch_size": args.batch_size, "crops_per_photo": args.crops_per_photo}
    recipe = replace(recipe, **{name: size for name, size in sizes.items() if size})
    torch.backends.cudnn.benchmark = device.type == "cuda"  # all batches are of one shape
    args.out.mkdir(parents=True, exist_ok=True)
    folders = [f for f in default_folders(args.name, args.data) if f.is_dir()] or [args.data]
    crops = load_crops(folders, recipe.image_size, recipe.crops_per_photo, seed=args.seed).to(device)
    log.info("%d crops of %d photographs", len(crops.pixels), len(crops.captions))
    tokenizer = build_tokenizer(recipe.words(crops), recipe.max_length, args.out / "model" / "tokenizer")
    model, scheduler = Denoiser(recipe, tokenizer).to(device), build_scheduler()
    if args.start_from:
        start = load_model(args.start_from, device="cpu", onnx=False)
        model.unet.load_state_dict(start.unet.float().state_dict())
        if start.tokenizers[0].get_vocab() == tokenizer.get_vocab():
            model.text_encoder.load_state_dict(start.text_encoders[0].float().state_dict())
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), weight_decay=0.01, fused=True)
    checkpoint, first, spent = args.out / "checkpoint.pt", 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first, spent = saved["iteration"], saved["seconds"]
    codec, started, losses = SpaceToDepth(recipe.patch_size), time.monotonic(), []
    for i in range(first, args.iterations):
        generator = torch.Generator(device).manual_seed((args.seed << 32) + i)
        seconds = spent + time.monotonic() - started
        left = 1 - max(i / args.iterations, seconds / (60 * args.minutes))
        last = i + 1 == args.iterations or left <= 0
        rate = args.learning_rate * min(1.0, (i + 1) / 100, max(left, 0.0) / 0.25)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["multiple"]
        pixels, condition = recipe.draw(crops, generator)
        loss = loss_per_row(model, scheduler, codec.encode(pixels), condition, generator, recipe).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(args.ema, (i + 1) / (i + 10))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.detach())
        if (i + 1) % 50 == 0:
            mean = float(torch.stack(losses).mean())
            losses.clear()
            speed = (i + 1 - first) * recipe.batch_size / (time.monotonic() - started)
            log.info("iteration %d loss %.4f, %.0f samples/s", i + 1, mean, speed)
            with (args.out / "loss.csv").open("a", newline="") as lines:
                csv.writer(lines).writerow([i + 1, f"{mean:.5f}"])
        if (i + 1) % args.every == 0 or last:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "iteration": i + 1, "seconds": seconds}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            prompts = recipe.samples(crops)
            sample(average, scheduler, recipe, prompts, 8).save(args.out / f"samples-{i + 1:06d}.png")
            save_model(args.out / "model", average, scheduler, recipe)
        if last:
            break
    log.info("done: %s", np.round(time.monotonic() - started))


if __name__ == "__main__":
    main()
