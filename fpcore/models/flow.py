"""Rectified-flow models, Stable Diffusion 3 and FLUX: their steps, their text, their transformers.

Each function does what the family's diffusers pipeline does. States stay (B, C, h, w) as everywhere in Fixpoint; FLUX's
patches of 2 × 2 are made and unmade around its transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2
"""Latent positions along a side of one token, in both families as published."""
T5_LENGTH = {"sd3": 256, "flux": 512}
"""Tokens that the pipelines give T5 by default."""


@dataclass(frozen=True)
class FlowScheduler:
    """A ``FlowMatchEulerDiscreteScheduler`` set the way the family's pipeline sets it, for pictures of ``tokens`` tokens.

    FLUX spaces σ evenly from 1 to 1/N before the shift; SD 3 leaves that to the scheduler. Where the shift depends on the
    size of the picture, it is linear in the number of tokens.
    """

    inner: Any
    evenly: bool
    tokens: int

    @property
    def config(self) -> Any:
        """The scheduler's configuration."""
        return self.inner.config

    @property
    def sigmas(self) -> Tensor:
        """σ (N + 1,), falling to 0."""
        sigmas: Tensor = self.inner.sigmas
        return sigmas

    @property
    def timesteps(self) -> Tensor:
        """(N,), falling."""
        timesteps: Tensor = self.inner.timesteps
        return timesteps

    def set_timesteps(self, num_inference_steps: int) -> None:
        """As diffusers' schedulers have it."""
        steps: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        if self.evenly:
            steps = {"sigmas": np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)}
        if self.config.use_dynamic_shifting:
            steps["mu"] = self._shift()
        self.inner.set_timesteps(**steps)

    def sized(self, height: int, width: int) -> FlowScheduler:
        """The same for latents of that size."""
        return replace(self, tokens=(height // PATCH) * (width // PATCH))

    def _shift(self) -> float:
        """μ, linear in the number of tokens."""
        c = self.config
        slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
        return float(c.base_shift + slope * (self.tokens - c.base_image_seq_len))


def embed_sd3(clip: list[Any], t5: Tensor | None, joint_width: int) -> tuple[Tensor, Tensor]:
    """Text of Stable Diffusion 3: embeddings (1, 77 + 256, D) and pooled (1, P), of one prompt.

    ``clip``: the outputs of both CLIP encoders with hidden states, of which the penultimate are read side by side and
    padded to T5's width. ``t5`` (1, 256, D), or None for a model without it: zeros stand there.
    """
    words = torch.cat([output.hidden_states[-2].float() for output in clip], dim=-1)
    words = F.pad(words, (0, joint_width - words.shape[-1]))
    if t5 is None:
        t5 = words.new_zeros((1, T5_LENGTH["sd3"], joint_width))
    pooled = torch.cat([output.text_embeds.float() for output in clip], dim=-1)
    return torch.cat([words, t5.float()], dim=-2), pooled


def predict_sd3(transformer: Any, z: Tensor, t: Tensor, embeddings: Tensor, pooled: Tensor) -> Tensor:
    """SD 3's velocity at z (B, C, h, w), timestep t (B,) in 0…1000."""
    velocity: Tensor = transformer(
        hidden_states=z, timestep=t, encoder_hidden_states=embeddings, pooled_projections=pooled, return_dict=False
    )[0]
    return velocity


def predict_flux(
    transformer: Any, z: Tensor, t: Tensor, embeddings: Tensor, pooled: Tensor, guidance: Tensor | None
) -> Tensor:
    """FLUX's velocity at z (B, 16, h, w), timestep t (B,) in 0…1000; ``guidance`` (B,) for a guidance-distilled model."""
    _, _, height, width = z.shape
    rows, columns = height // PATCH, width // PATCH
    tokens = F.pixel_unshuffle(z, PATCH).flatten(2).transpose(1, 2)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    where = torch.stack([torch.zeros_like(y), y, x], -1).flatten(0, 1).to(z)
    velocity = transformer(
        hidden_states=tokens,
        timestep=t.to(z.dtype) / 1000,
        guidance=guidance if transformer.config.guidance_embeds else None,
        pooled_projections=pooled,
        encoder_hidden_states=embeddings,
        txt_ids=z.new_zeros((embeddings.shape[1], 3)),
        img_ids=where,
        return_dict=False,
    )[0]
    return F.pixel_shuffle(velocity.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)
