"""Whether a model's configuration asks for no more than its weights hold: checked from headers, before anything is built.

A configuration is a few bytes that somebody else wrote, and a class builds whatever sizes it names.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_TRAIN_TIMESTEPS = 10_000
MAX_TOKENS = 10_000
"""Tokens of one prompt."""
MAX_BLOCKS = 64
SIZES = (
    "block_out_channels", "in_channels", "out_channels", "latent_channels", "cross_attention_dim", "hidden_size",
    "intermediate_size", "vocab_size", "max_position_embeddings", "d_model", "d_ff", "caption_projection_dim",
    "joint_attention_dim", "projection_class_embeddings_input_dim",
)  # fmt: skip
"""Settings that are a dimension of some weight."""
COUNTS = ("layers_per_block", "num_hidden_layers", "num_layers", "num_single_layers", "transformer_layers_per_block")
"""Settings that say how often a layer occurs: each has weights of its own."""


def shapes_of(file: Path) -> list[list[int]]:
    """Shapes of the tensors of a safetensors file whose header was found valid."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(length))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


def check_sizes(config: dict[str, Any], class_name: str, shapes: Sequence[Sequence[int]]) -> None:
    """Raise ValueError where the configuration of a network asks for more than ``shapes`` hold.

    Every size is at most the largest dimension there is, every count at most the number of tensors, and what the class
    builds at least (see ``_at_least``) at most the number of elements.
    """
    largest, count = max((n for shape in shapes for n in shape), default=0), len(shapes)
    for names, limit, what in ((SIZES, largest, "dimension"), (COUNTS, count, "number of tensors")):
        for name in names:
            for value in _numbers(config.get(name), name):
                if not 0 <= value <= limit:
                    raise ValueError(f"{name} is {value}, and the largest {what} of its weights is {limit}")
    held = sum(math.prod(shape) for shape in shapes)
    if (least := _at_least(config, class_name)) > held:
        raise ValueError(f"it asks for at least {least:,} weights, and the files hold {held:,}")


def _numbers(value: Any, name: str) -> Iterator[int]:
    """The whole numbers in a setting. Raises ValueError for too many of them and for others."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if len(values) > MAX_BLOCKS:
        raise ValueError(f"{name} has {len(values)} entries: more than {MAX_BLOCKS} is no network")
    for one in values:
        if isinstance(one, list):
            yield from _numbers(one, name)
        elif isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) or one != int(one):
            raise ValueError(f"{name} is {one!r}, not a whole number")
        else:
            yield int(one)


def _at_least(config: dict[str, Any], class_name: str) -> int:
    """Elements that the network has at least: one 3 × 3 convolution a residual block; attention and MLP a text layer."""
    if class_name in ("UNet2DConditionModel", "AutoencoderKL"):
        channels = list(_numbers(config.get("block_out_channels"), "block_out_channels"))
        layers = [*_numbers(config.get("layers_per_block"), "layers_per_block")] or [1]
        layers = layers * len(channels) if len(layers) == 1 else layers
        return sum(9 * n * c * c for n, c in zip(layers, channels, strict=False))
    if class_name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        get = {name: max(_numbers(config.get(name), name), default=0) for name in (*SIZES, *COUNTS)}
        hidden = get["hidden_size"]
        layer = 4 * hidden * hidden + 2 * hidden * get["intermediate_size"]
        return get["num_hidden_layers"] * layer + get["vocab_size"] * hidden
    return 0


SCHEDULE_KINDS = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
}
"""What a schedule may name; the first is what it is if it names nothing, or what makes no difference then."""


def check_schedule(config: dict[str, Any]) -> None:
    """Raise ValueError unless a schedule is 1 to 10,000 steps with finite 0 < β < 1, of kinds that diffusers knows."""
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_TRAIN_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {steps!r}: it must be 1 to {MAX_TRAIN_TIMESTEPS:,}")
    betas = config.get("trained_betas")
    if betas is not None and not (isinstance(betas, list) and 1 <= len(betas) <= MAX_TRAIN_TIMESTEPS):
        raise ValueError(f"trained_betas must be a list of 1 to {MAX_TRAIN_TIMESTEPS:,} numbers")
    if betas is not None and len(betas) != steps:
        raise ValueError(f"trained_betas holds {len(betas)} numbers, and num_train_timesteps is {steps}")
    for name, kinds in SCHEDULE_KINDS.items():
        if (kind := config.get(name, kinds[0])) not in kinds:
            raise ValueError(f"{name} is {kind!r}: it must be one of {', '.join(kinds)}")
    named = [("trained_betas", beta) for beta in betas or ()]
    named += [(name, config[name]) for name in ("beta_start", "beta_end") if config.get(name) is not None]
    for name, beta in named:
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < 1:
            raise ValueError(f"{name} holds {beta!r}: every β lies between 0 and 1")


def check_tokenizer(config: dict[str, Any]) -> None:
    """Raise ValueError for prompts padded to a length that fills the memory."""
    length = config.get("model_max_length", 77)
    if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length <= MAX_TOKENS:
        raise ValueError(f"model_max_length is {length!r}: it must be 1 to {MAX_TOKENS:,}")
