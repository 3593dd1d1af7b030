"""The three measures of PIE-Bench that need trained weights: LPIPS, DINO structure distance and the CLIP score.

Weights are never fetched. Without a path a measure is ``Unavailable``, with the reason; it is never zero.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Unavailable:
    """A measure that cannot be taken here, and why."""

    reason: str


@dataclass(frozen=True)
class Judges:
    """The measures at hand."""

    lpips: Lpips | Unavailable
    structure: DinoStructure | Unavailable
    clip: ClipScore | Unavailable


def load_judges(
    lpips: str | Path | None = None,
    dino: str | Path | None = None,
    clip: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Judges:
    """The measures whose weights are given by local path.

    Args:
        lpips: SqueezeNet 1.1 trained on ImageNet, one .safetensors file with torchvision's names.
        dino: the folder of ``facebook/dino-vitb8``.
        clip: the folder of ``openai/clip-vit-large-patch14``.

    Raises ValueError for a path that does not hold what it should.
    """
    return Judges(
        Lpips(lpips).to(device) if lpips else Unavailable("no SqueezeNet 1.1 weights were given (lpips)"),
        DinoStructure(dino).to(device) if dino else Unavailable("no folder of facebook/dino-vitb8 was given (dino)"),
        ClipScore(clip).to(device)
        if clip
        else Unavailable("no folder of openai/clip-vit-large-patch14 was given (clip)"),
    )


# LPIPS


class Fire(nn.Module):
    """SqueezeNet's block: squeeze to few channels, expand by 1×1 and 3×3, joined."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 2 expanded, h, w)."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


def squeezenet_features() -> nn.Sequential:
    """The convolutions of SqueezeNet 1.1 (Iandola et al. 2016), numbered as in torchvision."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    head = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()]
    small = [Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool()]
    large = [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return nn.Sequential(*head, *small, *large)


class Lpips(nn.Module):
    """Learned perceptual similarity (Zhang et al. 2018) on SqueezeNet, version 0.1; smaller is more alike.

    The seven linear heads come with torchmetrics; the backbone is read from ``weights``.
    """

    ENDS = (0, 2, 5, 8, 10, 11, 12, 13)  # the features are read after layers 1, 4, 7, 9, 10, 11, 12

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        self.features = squeezenet_features()
        try:
            tensors = load_file(Path(weights))
            self.features.load_state_dict(
                {name.removeprefix("features."): t for name, t in tensors.items() if not name.startswith("classifier.")}
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{weights} does not hold SqueezeNet 1.1 under torchvision's names: {error}") from error
        for i, head in enumerate(_linear_heads()):
            self.register_buffer(f"head{i}", head)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """(B,) from pictures (B, 3, H, W) in [-1, 1]."""
        total = torch.zeros(len(image), device=image.device)
        x, y = (_imagenet(z, (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)) for z in (image, reference))
        for i, (start, end) in enumerate(pairwise(self.ENDS)):
            x, y = self.features[start:end](x), self.features[start:end](y)
            difference = (_unit(x) - _unit(y)) ** 2
            total = total + F.conv2d(difference, self.get_buffer(f"head{i}")).mean((1, 2, 3))
        return total


def _linear_heads() -> list[Tensor]:
    file = importlib.resources.files("torchmetrics") / "functional/image/lpips_models/squeeze.pth"
    with importlib.resources.as_file(file) as path:
        heads = torch.load(path, map_location="cpu", weights_only=True)
    return [heads[f"lin{i}.model.1.weight"] for i in range(7)]


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()


def _imagenet(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - x.new_tensor(mean).view(1, 3, 1, 1)) / x.new_tensor(std).view(1, 3, 1, 1)


# Structure distance


class DinoStructure(nn.Module):
    """Structure distance (Tumanyan et al. 2022): MSE of the cosine self-similarities of DINO ViT-B/8's last keys."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.vit = _pretrained(transformers.ViTModel, folder, add_pooling_layer=False)
        keys = [m for name, m in self.vit.named_modules() if name.endswith(("k_proj", "attention.key"))]
        if not keys:
            raise ValueError("this version of transformers has no key projection in its ViT under a known name")
        self.keys: Tensor | None = None
        keys[-1].register_forward_hook(self._remember)

    def _remember(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.keys = output

    def forward(self, image: Tensor, reference: Tensor, as_published: bool = True) -> Tensor:
        """(B,) from pictures (B, 3, H, W) in [0, 1].

        The benchmark's code feeds pixels from 0 to 255 to a network that expects 0 to 1, without smoothing when it
        shrinks; that is ``as_published``, comparable with printed figures. Otherwise the input is as DINO was trained.
        """
        similar = [self._self_similarity(x, as_published) for x in (image, reference)]
        return (similar[0] - similar[1]).square().mean((1, 2))

    def _self_similarity(self, pixels: Tensor, as_published: bool) -> Tensor:
        size = _short_side(pixels.shape[-2], pixels.shape[-1])
        pixels = pixels * 255 if as_published else pixels
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=not as_published)
        self.vit(pixel_values=_imagenet(pixels, IMAGENET_MEAN, IMAGENET_STD), interpolate_pos_encoding=True)
        assert self.keys is not None
        keys, self.keys = F.normalize(self.keys, dim=-1), None
        return keys @ keys.transpose(1, 2)


def _short_side(height: int, width: int, short: int = 224, longest: int = 480) -> tuple[int, int]:
    """Height and width scaled so that the shorter is 224 and the longer at most 480."""
    scale = min(short / min(height, width), longest / max(height, width))
    return int(height * scale), int(width * scale)


# CLIP score


class ClipScore(nn.Module):
    """100 × cosine of a picture's and a text's CLIP embedding, at least 0 (Hessel et al. 2021)."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.clip = _pretrained(transformers.CLIPModel, folder)
        self.tokenizer = _pretrained(transformers.CLIPTokenizer, folder)
        processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)  # no torchvision
        self.processor = _pretrained(processor, folder)

    def forward(self, images: Tensor, texts: list[str]) -> Tensor:
        """(B,) from pictures (B, 3, H, W) in [0, 1] and B texts."""
        device = images.device
        pictures = [(x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy() for x in images]
        pixels = self.processor(pictures, return_tensors="pt")["pixel_values"].to(device)
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
        seen = _embedding(self.clip.get_image_features(pixel_values=pixels))
        said = _embedding(self.clip.get_text_features(**tokens))
        return (100 * F.cosine_similarity(seen, said)).clamp_min(0)


def _embedding(features: Any) -> Tensor:
    """transformers 4 returns the projected embedding, transformers 5 an output that holds it."""
    embedding: Tensor = getattr(features, "pooler_output", features)
    return embedding


def _pretrained(kind: Any, folder: str | Path, **options: Any) -> Any:
    """A transformers component from a local folder; weights from safetensors only, frozen."""
    model = issubclass(kind, transformers.PreTrainedModel)
    safe = {"use_safetensors": True} if model else {}
    try:
        loaded = kind.from_pretrained(str(folder), local_files_only=True, **safe, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} does not hold a {kind.__name__}: {error}") from error
    return loaded.requires_grad_(False).eval() if model else loaded
