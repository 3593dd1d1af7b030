"""Stable Diffusion as published, scaled down: the same layout, file by file, random weights, a small vocabulary.

``PUBLISHED`` holds what the published configurations say about the architecture; ``tiny_sd1`` and its kin change only
widths and depths. The text encoders are written with the names of the published files (``text_model.…``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from fpcore.builtin.text import build_tokenizer

WORDS = "a photo of the cat dog desert ocean haze hazy fog clear sky mountain road house tree in with and".split()
DOWN3 = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
UP3 = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
LATENT_UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {
        **LATENT_UNET,
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": DOWN3,
        "up_block_types": UP3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd2": {
        **LATENT_UNET,
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": DOWN3,
        "up_block_types": UP3,
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        **LATENT_UNET,
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""The UNets of Stable Diffusion 1.5, 2.1 (768 pixels) and XL base 1.0."""

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd1": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **BETAS,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "sd2": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **BETAS,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        **BETAS,
        "clip_sample": False,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
}
SMALL_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"sample_size": 8, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32},
    "sd2": {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64, 64),
        "attention_head_dim": (2, 2, 4, 4),
        "cross_attention_dim": 48,
    },
    "sdxl": {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64),
        "attention_head_dim": (2, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 32 + 48,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 48,
    },
}


def tiny_sd1(folder: Path, *, tiny_vae: bool = False, inpainting: bool = False) -> Path:
    """Stable Diffusion 1.5 at 64 pixels, optionally with an AutoencoderTiny, or the nine channels of its inpainting UNet.

    Returns ``folder``.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        _save_unet(folder, "sd1", in_channels=9 if inpainting else 4)
        _save_vae(folder, 0.18215, tiny_vae)
        _save_text(folder, "", width=32, activation="quick_gelu", pad="<|endoftext|>")
    _save_rest(folder, "sd1", "StableDiffusionPipeline", AutoencoderTiny if tiny_vae else AutoencoderKL)
    return folder


def tiny_sd2(folder: Path) -> Path:
    """Stable Diffusion 2.1 with v-prediction at 64 pixels. Returns ``folder``."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        _save_unet(folder, "sd2")
        _save_vae(folder, 0.18215)
        _save_text(folder, "", width=48, activation="gelu", pad="!")
    _save_rest(folder, "sd2", "StableDiffusionPipeline", AutoencoderKL)
    return folder


def tiny_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL base at 64 pixels, with both text encoders. Returns ``folder``."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        _save_unet(folder, "sdxl")
        _save_vae(folder, 0.13025)
        _save_text(folder, "", width=32, activation="quick_gelu", pad="<|endoftext|>")
        _save_text(folder, "_2", width=48, activation="gelu", pad="!", projected=True)
    _save_rest(folder, "sdxl", "StableDiffusionXLPipeline", AutoencoderKL)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny_sd1,
    "sd2": tiny_sd2,
    "sdxl": tiny_sdxl,
    "sd1-tiny-vae": lambda folder: tiny_sd1(folder, tiny_vae=True),
    "sd1-inpainting": lambda folder: tiny_sd1(folder, inpainting=True),
}
"""The tiny models by name."""


FLOW_SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd3": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
    "flux": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    },
}
"""As published with Stable Diffusion 3 medium and FLUX.1 dev."""


def tiny_sd3(folder: Path, *, large: bool = False, with_t5: bool = True) -> Path:
    """Stable Diffusion 3 at 64 pixels; ``large`` is 3.5's: normalised queries and keys, dual attention."""
    newer = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if large else {}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=96, caption_projection_dim=32, pooled_projection_dim=32 + 48, out_channels=16,
            pos_embed_max_size=12, **newer,
        )  # fmt: skip
        transformer.proj_out.weight.mul_(0.1)  # a random velocity is far steeper than a trained one
        transformer.save_pretrained(folder / "transformer")
        _save_vae(folder, 1.5305, channels=16, shift=0.0609)
        _save_text(folder, "", width=32, activation="quick_gelu", pad="<|endoftext|>", projected=True)
        _save_text(folder, "_2", width=48, activation="gelu", pad="!", projected=True)
        if with_t5:
            _save_t5(folder, "_3", 96)
    _save_flow_rest(folder, "sd3", "StableDiffusion3Pipeline", with_t5)
    return folder


def tiny_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    """FLUX.1 dev at 64 pixels; without ``guidance_embeds`` it is schnell's transformer."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=48, pooled_projection_dim=32, guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 4, 8),
        )  # fmt: skip
        transformer.proj_out.weight.mul_(0.1)
        transformer.save_pretrained(folder / "transformer")
        _save_vae(folder, 0.3611, channels=16, shift=0.1159)
        _save_text(folder, "", width=32, activation="quick_gelu", pad="<|endoftext|>")
        _save_t5(folder, "_2", 48)
    _save_flow_rest(folder, "flux", "FluxPipeline", True)
    return folder


def _save_t5(folder: Path, suffix: str, width: int) -> None:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,."]
    vocabulary = special + [(f"▁{word}", -2.0) for word in dict.fromkeys(WORDS)] + letters
    tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
    config = T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder / f"text_encoder{suffix}")


def _save_flow_rest(folder: Path, family: str, pipeline: str, with_t5: bool) -> None:
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(FLOW_SCHEDULERS[family], indent=2))
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if family == "sd3":
        t5 = ("transformers", "T5EncoderModel"), ("transformers", "T5TokenizerFast")
        index |= {
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_3": list(t5[0]) if with_t5 else [None, None],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "tokenizer_3": list(t5[1]) if with_t5 else [None, None],
        }
    else:
        index |= {
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
        }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _save_unet(folder: Path, family: str, in_channels: int = 4) -> None:
    unet = UNet2DConditionModel(**{**PUBLISHED[family], **SMALL_UNETS[family], "in_channels": in_channels})
    unet.conv_out.weight.mul_(0.1)  # a random UNet is far steeper than a denoiser, and DDIM steps would not invert
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.to_out[0].weight.mul_(10)  # and hardly hears the prompt
    unet.save_pretrained(folder / "unet")


def _save_vae(
    folder: Path, scaling_factor: float, tiny: bool = False, channels: int = 4, shift: float | None = None
) -> None:
    if tiny:
        vae: Any = AutoencoderTiny(
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(16,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
        )
        last = vae.encoder.layers[-1]
    else:
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=channels,
            norm_num_groups=32,
            sample_size=64,
            scaling_factor=scaling_factor,
            shift_factor=shift,
            use_quant_conv=shift is None,
            use_post_quant_conv=shift is None,
        )
        last = vae.quant_conv if shift is None else vae.encoder.conv_out
    last.weight.mul_(4 / scaling_factor)  # latents of about unit variance, as the UNet expects them
    vae.save_pretrained(folder / "vae")


def _save_text(folder: Path, suffix: str, width: int, activation: str, pad: str, projected: bool = False) -> None:
    tokenizer_folder = folder / f"tokenizer{suffix}"
    tokenizer = build_tokenizer(WORDS, 77, tokenizer_folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tokenizer_folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": pad}))
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=0,  # 0, 2 and 1 as published, though the vocabulary says otherwise
        eos_token_id=2,
        pad_token_id=1,
    )
    encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    encoder.save_pretrained(folder / f"text_encoder{suffix}")
    _use_published_names(folder / f"text_encoder{suffix}" / "model.safetensors")


def _use_published_names(file: Path) -> None:
    tensors = load_file(file)
    published = ("text_model.", "text_projection.")
    renamed = {k if k.startswith(published) else f"text_model.{k}": v for k, v in tensors.items()}
    renamed["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(renamed, file, metadata={"format": "pt"})


def _save_rest(folder: Path, family: str, pipeline: str, vae: type) -> None:
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULERS[family], indent=2))
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "_diffusers_version": "0.19.0",
        "scheduler": ["diffusers", SCHEDULERS[family]["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", vae.__name__],
    }
    if family == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    else:
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
