"""What each built-in model is and how its training examples are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.builtin.haze_levels import HAZE_LEVELS, level_weights
from fpcore.builtin.photographs import Crops
from fpcore.builtin.real_haze import render_real_haze
from fpcore.builtin.text import frequent_words


@dataclass(frozen=True)
class Mixture:
    """A condition per example: K prompts, and how much each of them is meant.

    ``weights``: (B, K), a mixture of the prompts' embeddings, or (B, K, h, w), of the attention to them at each place
    (``fpcore.editing.attention.PlacedPrompts``); sums over K are 1.
    """

    prompts: list[str]
    weights: Tensor


def mixture_of(prompts: Sequence[str], device: torch.device) -> Mixture:
    """One prompt per example, and nothing else."""
    said = sorted(set(prompts))
    index = torch.tensor([said.index(prompt) for prompt in prompts], device=device)
    return Mixture(said, F.one_hot(index, len(said)).float())


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
) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` random crops (count, 3, S, S) in [0, 1], half of them mirrored, their segments and their photographs' indices.

    ``weight`` (N,): how often each crop comes; None: all alike.
    """
    device = generator.device
    if weight is None:
        chosen = torch.randint(len(crops.pixels), (count,), generator=generator, device=device)
    else:
        chosen = torch.multinomial(weight, count, replacement=True, generator=generator)
    pixels, segments = crops.pixels[chosen].float() / 255, crops.segments[chosen].long()
    mirrored = torch.rand((count, 1, 1), generator=generator, device=device) < 0.5
    pixels = torch.where(mirrored[:, None], pixels.flip(-1), pixels)
    return pixels, torch.where(mirrored, segments.flip(-1), segments), crops.photo[chosen]


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
        """Two renderings of each photograph, under independent hazes and kinds of prompt; half of them divided by the airlight.

        Kinds: 12 % null text (half of them hazy), 16 % "haze", 28 % clear, the rest the density of the haze in words, by place
        (half) or its mean everywhere.
        """
        photographs, segments, _ = _photographs(crops, self.batch_size // 2, generator)
        device, b = generator.device, 2 * len(photographs)
        kind, how, divided = torch.rand((3, b), generator=generator, device=device)
        is_clear = (kind < 0.06) | ((kind >= 0.28) & (kind < 0.56))
        hazy = photographs.repeat(2, 1, 1, 1), segments.repeat(2, 1, 1)
        haze = render_real_haze(*hazy, generator, clear_share=0.0, hide=False, camera=False)
        density = 1 - torch.exp(-haze.tau)
        placed = F.adaptive_avg_pool2d(density, self.image_size // self.patch_size)
        mean = density.mean((2, 3), keepdim=True)
        placed = torch.where(is_clear.view(-1, 1, 1, 1), 0.0, torch.where((how < 0.5).view(-1, 1, 1, 1), placed, mean))
        weights = torch.cat([torch.zeros_like(placed).expand(-1, 2, -1, -1), level_weights(placed)], 1)
        for prompt, said in enumerate((kind < 0.12, (kind >= 0.12) & (kind < 0.28))):
            one = F.one_hot(torch.tensor(prompt, device=device), len(self.prompts)).view(1, -1, 1, 1).to(weights)
            weights = torch.where(said.view(-1, 1, 1, 1), one, weights)
        image = torch.where(is_clear.view(-1, 1, 1, 1), haze.clear, haze.image)
        light = torch.where((divided < 0.5).view(-1, 1, 1, 1), haze.airlight, 1.0)
        return image / light * 2 - 1, Mixture(self.prompts, weights)


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
        pixels, _, photo = _photographs(crops, self.batch_size, generator, weight)
        dropped = torch.rand(len(photo), generator=generator, device=device) < 0.1
        pick = torch.rand(len(photo), generator=generator, device=device)
        prompts = [
            "" if d or not (texts := crops.captions[p]) else texts[int(r * len(texts))]
            for p, d, r in zip(photo.tolist(), dropped.tolist(), pick.tolist(), strict=True)
        ]
        return pixels * 2 - 1, mixture_of(prompts, device)


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
        pixels, _, photo = _photographs(crops, self.batch_size, generator)
        kind = torch.rand(len(photo), generator=generator, device=generator.device)
        weights = pixels.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
        grey = (pixels * weights).sum(1, keepdim=True).expand_as(pixels)
        is_grey = kind < 0.25
        told = torch.where(kind > 0.9, 0, torch.where(is_grey, 1, 2))
        pixels = torch.where(is_grey.view(-1, 1, 1, 1), grey, pixels)
        return pixels * 2 - 1, Mixture(list(self.prompts), F.one_hot(told, len(self.prompts)).to(pixels))


RECIPES: dict[str, Recipe] = {"haze": HazeRecipe(), "scenes": ScenesRecipe(), "color": ColorRecipe()}


FOLDERS = {
    "haze": ("scenes", "flickr8k_subset", "wallpapers"),
    "scenes": ("scenes", "flickr8k_subset"),
    "color": ("scenes", "flickr8k_subset", "clear_more"),
}


def default_folders(name: str, data: Path) -> Sequence[Path]:
    """Where the photographs of a recipe lie under the data folder."""
    return [data / folder for folder in FOLDERS[name]]
