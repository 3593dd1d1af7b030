"""A lossless "VAE" for pixel-space models: each square of pixels becomes the channels of one latent position."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor


class SpaceToDepth(ModelMixin, ConfigMixin):
    """Space to depth (pixel unshuffle), kept in a diffusers folder like any VAE. It has no weights."""

    config_name = "config.json"  # type: ignore[assignment]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, patch_size: int = 4, scaling_factor: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.patch_size = patch_size

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 3 p², H/p, W/p)."""
        return F.pixel_unshuffle(pixels, self.patch_size)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of ``encode``."""
        return F.pixel_shuffle(latents, self.patch_size)
