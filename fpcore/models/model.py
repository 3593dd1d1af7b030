"""A loaded diffusion model: pixels ↔ latents, prompts → condition, (z_t, t, c) → the network's output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fpcore.models.flow import PATCH, T5_LENGTH, FlowScheduler, embed_sd3, predict_flux, predict_sd3

log = logging.getLogger(__name__)
Family = Literal["builtin", "sd1", "sd2", "sdxl", "sd3", "flux"]
FLOW_FAMILIES: tuple[Family, ...] = ("sd3", "flux")
"""Rectified flow: a transformer that predicts a velocity; ``Model.unet`` is that transformer."""
MAX_CACHED_PROMPTS = 512
VAE_PIXELS = 8 * 512 * 512
"""Pixels that go through a VAE at once: it keeps its GPU busy with few, and takes gigabytes for more."""


@dataclass(frozen=True)
class Condition:
    """What the UNet is told, a row per sample.

    Args:
        embeddings: (B, L, D) hidden states of the text encoder(s), fp32.
        pooled: (B, P) pooled text embedding; SDXL, SD 3 and FLUX.
        time_ids: (B, 6) original height and width, crop top and left, target height and width in pixels; SDXL only.
        guidance: (B,) the guidance that a distilled FLUX is told; 1 unless said otherwise (``guided``).
    """

    embeddings: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(*(None if part is None else change(part) for part in self._parts()))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.embeddings, self.pooled, self.time_ids, self.guidance

    def rows(self, index: Tensor) -> Condition:
        """The rows ``index`` (long indices or a boolean mask), in that order."""
        return self._each(lambda part: part[index])

    def repeat(self, n: int) -> Condition:
        """All rows n times over: a single prompt for a batch of n."""
        return self.cat([self] * n)

    def guided(self, scale: float) -> Condition:
        """The same under another embedded guidance, where the model was distilled with one."""
        return self if self.guidance is None else replace(self, guidance=torch.full_like(self.guidance, scale))

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """The rows of several conditions of the same model, one after the other."""
        columns = zip(*(c._parts() for c in conditions), strict=True)
        joined = ([part for part in column if part is not None] for column in columns)
        return Condition(*(torch.cat(parts) if parts else None for parts in joined))  # type: ignore[arg-type]

    def lerp(self, other: Condition, weight: Tensor | float) -> Condition:
        """(1 − w) · self + w · other, w a number or one per row (B,). Time ids and guidance stay this condition's."""
        w = torch.as_tensor(weight, dtype=self.embeddings.dtype, device=self.embeddings.device)
        embeddings = torch.lerp(self.embeddings, other.embeddings, w.view(-1, 1, 1))
        if self.pooled is None or other.pooled is None:
            return replace(self, embeddings=embeddings)
        return replace(self, embeddings=embeddings, pooled=torch.lerp(self.pooled, other.pooled, w.view(-1, 1)))


@dataclass(frozen=True, eq=False)
class Model:
    """The components of a model, loaded and frozen; made by ``load_model``.

    Args:
        name: as the user gave it.
        family: which layout and conditioning it has.
        scheduler: a ``DDIMScheduler`` or ``FlowScheduler`` with the model's own noise schedule; see ``scheduler_for``.
        device: where ``predict`` computes.
        digest: SHA-256 (hex) of the files it was loaded from.
        zero_null_text: SDXL's ``force_zeros_for_empty_prompt``: the null text "" is embedded as zeros.
    """

    name: str
    family: Family
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler: Any
    device: torch.device
    digest: str
    zero_null_text: bool = False
    _prompts: dict[str, Condition] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's dtype, in which ``predict`` computes."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def scale_factor(self) -> int:
        """Pixels per latent position, along a side."""
        if self.family == "builtin":
            return int(self.vae.config.patch_size)
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained at."""
        if self.family == "flux":  # its transformer takes any size, and the VAE's is the one it was trained at
            return int(self.vae.config.sample_size), int(self.vae.config.sample_size)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.scale_factor, width * self.scale_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of that many pixels.

        Raises:
            ValueError: a side is no multiple of ``scale_factor``; see ``fpcore.models.sizing.pad``.
        """
        if height % self.scale_factor or width % self.scale_factor:
            raise ValueError(f"{width}×{height} is no multiple of {self.scale_factor} pixels: pad the picture first")
        channels = int(self.unet.config.in_channels if self.is_flow else self.unet.config.out_channels)
        if self.family == "flux":
            channels //= PATCH**2
        return channels, height // self.scale_factor, width // self.scale_factor

    @property
    def is_flow(self) -> bool:
        """Whether this is a rectified-flow model."""
        return self.family in FLOW_FAMILIES

    @property
    def guidance_distilled(self) -> bool:
        """Whether guidance is told to the network instead of being computed from two evaluations."""
        return self.family == "flux" and bool(self.unet.config.guidance_embeds)

    def scheduler_for(self, latents: Tensor) -> Any:
        """The scheduler for latents (…, h, w): in FLUX and SD 3.5 the spacing depends on the size of the picture."""
        if isinstance(self.scheduler, FlowScheduler):
            return self.scheduler.sized(latents.shape[-2], latents.shape[-1])
        return self.scheduler

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → latents (B, C, h, w) fp32: the posterior's mean, in the UNet's scale."""
        self.latent_shape(*pixels.shape[-2:])
        latents: Tensor
        if self.family == "builtin":
            latents = self.vae.encode(pixels.to(self.device, torch.float32))
            return latents
        shift, scale = self._latent_affine()
        mean = self._in_parts(self._encoded, pixels, pixels.shape[-2:].numel())
        latents = (mean.float() - shift) * scale
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → pixels (B, 3, H, W) fp32, about [-1, 1], not clamped."""
        if self.family == "builtin":
            pixels: Tensor = self.vae.decode(latents.to(self.device, torch.float32))
            return pixels
        shift, scale = self._latent_affine()
        raw = (latents.to(self.device, torch.float32) / scale + shift).to(self.vae.dtype)
        size = latents.shape[-2:].numel() * self.scale_factor**2
        return self._in_parts(lambda part: self.vae.decode(part).sample.float(), raw, size)

    def latents_of(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] → latents (B, C, h, w) fp32; see ``encode``."""
        return self.encode(pictures * 2 - 1)

    def pictures_of(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → pictures (B, 3, H, W) fp32 in main memory, about [0, 1], not clamped; see ``decode``."""
        return (self.decode(latents).cpu() + 1) / 2

    def under(self, condition: Condition) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The network under ``condition`` (M rows), as the engine calls it: (z, t, image index) → raw output."""
        return lambda z, t, image: self.predict(z, t, condition.rows(image))

    @staticmethod
    def _in_parts(call: Callable[[Tensor], Tensor], batch: Tensor, pixels: int) -> Tensor:
        """``call`` on as many rows, pictures of ``pixels`` pixels, as the VAE takes at once; fewer once they do not fit."""
        rows = max(1, min(len(batch), VAE_PIXELS // pixels))
        while True:
            try:
                return torch.cat([call(part) for part in batch.split(rows)])
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows = (rows + 1) // 2

    def _encoded(self, pixels: Tensor) -> Tensor:
        """The posterior's mean in the VAE's own scale."""
        encoded = self.vae.encode(pixels.to(self.device, self.vae.dtype))
        mean: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return mean

    def _latent_affine(self) -> tuple[Tensor, Tensor]:
        """(shift, scale): the UNet works on (raw − shift) · scale, raw the VAE's own latents."""
        config = self.vae.config
        shift = config.get("latents_mean") or config.get("shift_factor") or 0.0
        spread = config.get("latents_std") or 1.0
        shift, spread = (torch.tensor(v, device=self.device).float().view(-1, 1, 1) for v in (shift, spread))
        return shift, config.scaling_factor / spread

    @torch.inference_mode(False)  # what is remembered must also serve a caller that takes gradients
    @torch.no_grad()
    def embed(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Condition:
        """The condition of each prompt, a row each, as the family's diffusers pipeline embeds it.

        Every prompt is embedded alone, so its row does not depend on its neighbours, and remembered.

        Args:
            prompts: texts; "" is the null text. Words past the encoder's length are cut off, with a warning.
            size: (height, width) told to SDXL in its time ids; the model's own size if not given.
        """
        if len(self._prompts) > MAX_CACHED_PROMPTS:
            self._prompts.clear()
        found = {prompt: self._prompts.get(prompt) or self._embed(prompt) for prompt in dict.fromkeys(prompts)}
        self._prompts.update(found)
        condition = Condition.cat([found[prompt] for prompt in prompts])
        if self.family != "sdxl":
            return condition
        height, width = size or self.image_size
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=self.device)
        return Condition(condition.embeddings, condition.pooled, time_ids.expand(len(prompts), -1))

    def _embed(self, prompt: str) -> Condition:
        if self.family == "sd3":
            return self._embed_sd3(prompt)
        if self.family == "flux":
            return self._embed_flux(prompt)
        if self.family != "sdxl":
            output = self.text_encoders[0](**self._tokens(0, prompt))
            return Condition(output[0].to(self.device, torch.float32))
        # SDXL reads the penultimate layer of both encoders, and the projected end-of-text state of the second.
        encoders = enumerate(self.text_encoders)
        outputs = [encoder(**self._tokens(i, prompt), output_hidden_states=True) for i, encoder in encoders]
        embeddings = torch.cat([o.hidden_states[-2].to(self.device, torch.float32) for o in outputs], dim=-1)
        pooled = outputs[1].text_embeds.to(self.device, torch.float32)
        if prompt == "" and self.zero_null_text:
            embeddings, pooled = torch.zeros_like(embeddings), torch.zeros_like(pooled)
        return Condition(embeddings, pooled)

    def _embed_sd3(self, prompt: str) -> Condition:
        clip = [self.text_encoders[i](**self._tokens(i, prompt), output_hidden_states=True) for i in (0, 1)]
        t5 = self.text_encoders[2](**self._tokens(2, prompt))[0] if len(self.text_encoders) > 2 else None
        embeddings, pooled = embed_sd3(clip, t5, self.unet.config.joint_attention_dim)
        return Condition(embeddings.to(self.device), pooled.to(self.device))

    def _embed_flux(self, prompt: str) -> Condition:
        """FLUX: CLIP's pooled output and T5's states."""
        pooled = self.text_encoders[0](**self._tokens(0, prompt)).pooler_output.to(self.device, torch.float32)
        words = self.text_encoders[1](**self._tokens(1, prompt))[0].to(self.device, torch.float32)
        return Condition(words, pooled, guidance=torch.ones(1, device=self.device) if self.guidance_distilled else None)

    def prompt_length(self, which: int = 0) -> int:
        """Tokens a prompt may have, begin and end marks included."""
        if self.is_flow and which == len(self.tokenizers) - 1 and which > (self.family == "sd3"):
            return T5_LENGTH[self.family]
        positions: int = self.text_encoders[which].config.max_position_embeddings
        return min(positions, int(self.tokenizers[which].model_max_length))

    def _tokens(self, which: int, prompt: str) -> dict[str, Tensor]:
        """The arguments of a text encoder: (1, L) padded token ids, and their mask if the encoder asks for it."""
        tokenizer, length = self.tokenizers[which], self.prompt_length(which)
        encoded = tokenizer(prompt, padding="max_length", truncation=True, max_length=length)
        if len(tokenizer(prompt, truncation=True, max_length=length + 1)["input_ids"]) > length:
            read = tokenizer.decode(encoded["input_ids"], skip_special_tokens=True)
            log.warning("the model reads only the first %d tokens of a prompt: %r", length, read)
        masked = getattr(self.text_encoders[which].config, "use_attention_mask", False)  # not in SD as published
        names = ("input_ids", "attention_mask") if masked else ("input_ids",)
        return {name: torch.tensor([encoded[name]], device=self.device) for name in names}

    def predict(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's raw output (ε, v or x0, as the scheduler's prediction type says, or velocity), fp32, of z's shape.

        Args:
            z: latents (B, C, h, w), fp32; cast to the UNet's dtype.
            t: (B,) long, a timestep per row.
            condition: B rows.
        """
        if self.is_flow:
            return self._velocity(z, t, condition)
        added = None
        if condition.pooled is not None and condition.time_ids is not None:
            added = {"text_embeds": condition.pooled.to(self.dtype), "time_ids": condition.time_ids.to(self.dtype)}
        output: Tensor = self.unet(
            z.to(self.dtype),
            t,
            encoder_hidden_states=condition.embeddings.to(self.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return output.float()

    def _velocity(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.pooled is not None
        z, text, pooled = (x.to(self.dtype) for x in (z, condition.embeddings, condition.pooled))
        if self.family == "sd3":
            return predict_sd3(self.unet, z, t, text, pooled).float()
        guidance = None if condition.guidance is None else condition.guidance.to(self.dtype)
        return predict_flux(self.unet, z, t, text, pooled, guidance).float()
