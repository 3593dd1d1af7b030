"""What each built-in model is and how its training examples are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fpcore.builtin.haze_levels import DENSEST, HAZE_LEVELS
from fpcore.builtin.photographs import Crops
from fpcore.builtin.rendered_haze import random_evenness, render_haze
from fpcore.builtin.text import frequent_words


@dataclass(frozen=True)
class Mixture:
    """A condition per example: the interpolation (1 − w) · prompts[low] + w · prompts[high] of two prompts' embeddings."""

    prompts: list[str]
    low: Tensor
    high: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Recipe(ABC):
    """Sizes of a built-in model, in diffusers' words."""

    image_size: int
    patch_size: int
    block_out_channels: tuple[int, ...]
    text_width: int
    text_layers: int
    max_length: int
    crops_per_photo: int
    batch_size: int
    layers_per_block: int = 1
    noise_power: float = 1.0
    """Timesteps are drawn as T uᵖ, u uniform: below 1 the noisy ones, where the text decides, come more often."""
    text_rate: float = 1.0
    """Learning rate of the text encoder and of cross-attention, as a multiple of the others'."""
    chroma_weight: float = 1.0
    """Weight of the loss in what is not luma. Any weight has the same minimum, the posterior mean of each."""

    @abstractmethod
    def words(self, crops: Crops) -> list[str]:
        """The tokenizer's whole words."""

    @abstractmethod
    def samples(self, crops: Crops) -> list[str]:
        """Prompts to look at while it learns."""

    @abstractmethod
    def draw(self, crops: Crops, generator: torch.Generator) -> tuple[Tensor, Mixture]:
        """A batch of pixels (B, 3, S, S) in [-1, 1] and their conditions, drawn where ``generator`` and ``crops`` are."""


def _photographs(
    crops: Crops, count: int, generator: torch.Generator, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``count`` random crops (count, 3, S, S) in [0, 1], half of them mirrored, and their photographs' indices.

    ``weight`` (N,): how often each crop comes; None: all alike.
    """
    device = generator.device
    if weight is None:
        chosen = torch.randint(len(crops.pixels), (count,), generator=generator, device=device)
    else:
        chosen = torch.multinomial(weight, count, replacement=True, generator=generator)
    pixels = crops.pixels[chosen].float() / 255
    mirrored = torch.rand(count, generator=generator, device=device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels), crops.photo[chosen]


@dataclass(frozen=True)
class HazeRecipe(Recipe):
    """``builtin:haze``: 32 × 32 pixels, told how much haze there is, or that there is some, or nothing."""

    image_size: int = 32
    patch_size: int = 4
    block_out_channels: tuple[int, ...] = (96, 128)
    text_width: int = 64
    text_layers: int = 1
    max_length: int = 8
    crops_per_photo: int = 12
    batch_size: int = 96
    prompts: list[str] = field(default_factory=lambda: ["", "haze", *HAZE_LEVELS])

    def words(self, crops: Crops) -> list[str]:
        """The words for haze, whatever the photographs."""
        return ["haze", "hazy", "fog", "foggy", "mist", *" ".join(HAZE_LEVELS).split(), "a", "photo", "of"]

    def samples(self, crops: Crops) -> list[str]:
        """None, some and much haze."""
        return ["", "clear", "haze", "dense haze"]

    def draw(self, crops: Crops, generator: torch.Generator) -> tuple[Tensor, Mixture]:
        """Two renderings of each photograph, under independent haze densities and kinds of prompt.

        Kinds: 12 % null text (half of them hazy), 16 % "haze", 28 % clear, the rest a graded amount in words.
        """
        photographs, _ = _photographs(crops, self.batch_size // 2, generator)
        device = generator.device
        bend = torch.randn((len(photographs), 1, 1, 1), generator=generator, device=device)
        gamma = torch.exp(0.2 * bend).clamp(0.65, 1.5)
        clear = (photographs**gamma).repeat(2, 1, 1, 1)
        b = len(clear)
        kind = torch.rand(b, generator=generator, device=device)
        amount = torch.rand(b, generator=generator, device=device) * DENSEST
        is_clear = (kind < 0.06) | ((kind >= 0.28) & (kind < 0.56))
        evenness = random_evenness(b, generator)
        haze = render_haze(clear, torch.where(is_clear, 0.0, amount), generator, evenness=evenness)
        position = (haze.amount / DENSEST * (len(HAZE_LEVELS) - 1)).clamp(0, len(HAZE_LEVELS) - 1 - 1e-4)
        low, first = position.long(), self.prompts.index(HAZE_LEVELS[0])
        weight = torch.where(kind < 0.28, 0.0, position - low)
        low = torch.where(kind < 0.12, 0, torch.where(kind < 0.28, 1, first + low))
        high = torch.where(kind < 0.28, low, low + 1)
        return haze.image * 2 - 1, Mixture(self.prompts, low, high, weight)


@dataclass(frozen=True)
class ScenesRecipe(Recipe):
    """``builtin:scenes``: 64 × 64 pixels under captions."""

    image_size: int = 64
    patch_size: int = 4
    block_out_channels: tuple[int, ...] = (96, 128)
    text_width: int = 64
    text_layers: int = 2
    max_length: int = 24
    crops_per_photo: int = 8
    batch_size: int = 48
    noise_power: float = 0.4
    text_rate: float = 3.0
    described_share: float = 0.15
    """Share of examples that come from photographs with several captions; the others are named by what they show."""

    def words(self, crops: Crops) -> list[str]:
        """Words that at least three captions use."""
        return frequent_words((text for texts in crops.captions for text in texts), least=3)

    def samples(self, crops: Crops) -> list[str]:
        """The scenes."""
        return sorted({text for texts in crops.captions[:1900] for text in texts})[:11]

    def draw(self, crops: Crops, generator: torch.Generator) -> tuple[Tensor, Mixture]:
        """Photographs under one of their captions, 10 % under the null text."""
        device = generator.device
        described = torch.tensor([len(texts) > 1 for texts in crops.captions], device=device)[crops.photo].float()
        many, few = described.sum().clamp_min(1), (1 - described).sum().clamp_min(1)
        weight = self.described_share * described / many + (1 - self.described_share) * (1 - described) / few
        pixels, photo = _photographs(crops, self.batch_size, generator, weight)
        dropped = torch.rand(len(photo), generator=generator, device=device) < 0.1
        pick = torch.rand(len(photo), generator=generator, device=device)
        prompts = [
            "" if d or not (texts := crops.captions[p]) else texts[int(r * len(texts))]
            for p, d, r in zip(photo.tolist(), dropped.tolist(), pick.tolist(), strict=True)
        ]
        index = torch.arange(len(prompts), device=device)
        return pixels * 2 - 1, Mixture(prompts, index, index, torch.zeros(len(prompts), device=device))


@dataclass(frozen=True)
class ColorRecipe(Recipe):
    """``builtin:color``: 32 × 32 pixels, told whether the picture has colours."""

    image_size: int = 32
    patch_size: int = 4
    block_out_channels: tuple[int, ...] = (96, 128)
    text_width: int = 64
    text_layers: int = 1
    max_length: int = 8
    crops_per_photo: int = 8
    batch_size: int = 64
    noise_power: float = 0.6
    chroma_weight: float = 8.0
    prompts: tuple[str, ...] = ("", "black and white photo", "color photo")

    def words(self, crops: Crops) -> list[str]:
        """The words for both, whatever the photographs."""
        return ["color", "colour", "grey", "gray", *" ".join(self.prompts).split(), "a", "of"]

    def samples(self, crops: Crops) -> list[str]:
        """All there are."""
        return list(self.prompts)

    def draw(self, crops: Crops, generator: torch.Generator) -> tuple[Tensor, Mixture]:
        """Photographs, a quarter of them without their colours; one in ten under the null text."""
        pixels, photo = _photographs(crops, self.batch_size, generator)
        kind = torch.rand(len(photo), generator=generator, device=generator.device)
        weights = pixels.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
        grey = (pixels * weights).sum(1, keepdim=True).expand_as(pixels)
        is_grey = kind < 0.25
        told = torch.where(kind > 0.9, 0, torch.where(is_grey, 1, 2))
        pixels = torch.where(is_grey.view(-1, 1, 1, 1), grey, pixels)
        return pixels * 2 - 1, Mixture(list(self.prompts), told, told, torch.zeros_like(kind))


RECIPES: dict[str, Recipe] = {"haze": HazeRecipe(), "scenes": ScenesRecipe(), "color": ColorRecipe()}


FOLDERS = {
    "haze": ("scenes", "flickr8k_subset", "wallpapers"),
    "scenes": ("scenes", "flickr8k_subset"),
    "color": ("scenes", "flickr8k_subset", "clear_more"),
}


def default_folders(name: str, data: Path) -> Sequence[Path]:
    """Where the photographs of a recipe lie under the data folder."""
    return [data / folder for folder in FOLDERS[name]]
