"""What each photo of a group is to become: its own prompts, words, seed and settings from the manifest, else the run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fpcore.editing.settings import EditSettings
from fpcore.evaluation.rle_masks import SIDE, decode_mask
from fpcore.models.model import Model
from fpcore.models.sizing import pad
from tasks.config import RunConfig
from tasks.edit_settings import blend_pair, edit_settings
from tasks.shard.loaded import Loaded


@dataclass(frozen=True)
class EditRequests:
    """Of M photos: prompts, blend words, seeds, and the settings of their edits.

    ``regions`` (M, 1, H, W): 1 at the pixels that may change; None for all of all photos.
    """

    prompts: list[str]
    targets: list[str | None]
    blend_words: list[tuple[str, str] | None]
    seeds: list[int]
    edits: list[EditSettings]
    regions: Tensor | None = None

    def of(self, rows: Sequence[int]) -> EditRequests:
        """Those of some photos."""
        lists = {f.name: [getattr(self, f.name)[i] for i in rows] for f in fields(self) if f.name != "regions"}
        return EditRequests(**lists, regions=None if self.regions is None else self.regions[list(rows)])

    def padded(self, model: Model) -> EditRequests:
        """The same with regions of a size that the model takes."""
        return self if self.regions is None else replace(self, regions=pad(self.regions, model))


def requests_of(photos: list[Loaded], config: RunConfig, size: tuple[int, int]) -> EditRequests:
    """The requests of a group whose pictures are ``size`` (H, W)."""
    planned = [item.planned for item in photos]
    return EditRequests(
        [photo.prompt or config.prompt or "" for photo in planned],
        [photo.target_prompt or config.target_prompt for photo in planned],
        [blend_pair(photo.blended_word or config.blended_word) for photo in planned],
        [seed_of(config, item.image_id, item.planned.seed) for item in photos],
        [edit_settings(config, photo.edit_settings) for photo in planned],
        _regions([photo.mask or config.mask for photo in planned], size) if config.masks else None,
    )


def seed_of(config: RunConfig, image_id: str | None, given: int | None) -> int:
    """The seed of a photo: the manifest's, else the run's seed mixed with the photo's digest (60 bits)."""
    return config.seed ^ int((image_id or "0")[:15], 16) if given is None else given


def _regions(masks: Sequence[Sequence[int] | None], size: tuple[int, int]) -> Tensor | None:
    """(M, 1, H, W): 1 where a photo's mask lets it change, everywhere for a photo without one. None if none has one."""
    if not any(mask is not None for mask in masks):
        return None
    pictures = torch.ones(len(masks), 1, SIDE, SIDE)
    for picture, mask in zip(pictures, masks, strict=True):
        if mask is not None:
            picture[0] = decode_mask(mask, border=False)
    return torch.nn.functional.adaptive_max_pool2d(pictures, size)
