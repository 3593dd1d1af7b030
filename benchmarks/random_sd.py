"""A model of the size of Stable Diffusion 1.5 with random weights, from its published configuration: nothing to download.

For timing only. The output layers are scaled down so that f contracts, as a trained network's does.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from fpcore.models.load import pick_device
from fpcore.models.memory import place
from fpcore.models.model import Condition, Model

UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
SMALL = {"block_out_channels": (32, 32, 64, 64), "sample_size": 8, "cross_attention_dim": 32}
"""Narrow and at 64 pixels: to try the benchmark itself out."""
TOKENS = 77


def random_sd(
    prompts: list[str],
    *,
    device: str = "auto",
    dtype: torch.dtype = torch.float16,
    small: bool = False,
    latent_size: int | None = None,
    seed: int = 0,
) -> Model:
    """The model, with random embeddings for ``prompts`` in place of a text encoder; ``latent_size``: a side, instead of its
    own."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        config = UNET | (SMALL if small else {})
        autoencoder = VAE | ({"block_out_channels": (32,) * 4, "sample_size": 64} if small else {})
        if latent_size is not None:
            config, autoencoder = config | {"sample_size": latent_size}, autoencoder | {"sample_size": 8 * latent_size}
        unet = UNet2DConditionModel(**config)
        unet.conv_out.weight.mul_(0.1)
        vae = AutoencoderKL(**autoencoder)
        width = config["cross_attention_dim"]
        target = pick_device(device)
        embedded = {prompt: Condition(torch.randn(1, TOKENS, width).to(target)) for prompt in prompts}
    unet.to(dtype)
    place([unet, vae], target, cpu_offload=False)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return Model("random", "sd1", unet, vae, (), (), scheduler, target, "random", False, embedded)
