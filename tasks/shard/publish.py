"""The writer's part of a shard: photos rendered at full resolution, encoded, stored and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from fpcore.color_transfer import render
from fpcore.dehazing.haze_estimate import weights_digest
from fpcore.dehazing.restore import restore
from fpcore.evaluation.clarity import LONGEST_SIDE, clarity
from fpcore.evaluation.colour_difference import ciede2000
from fpcore.evaluation.metrics import psnr, ssim
from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.photos.decode import Photo, PhotoLimits, Pixels, block_means, decode_photo
from tasks.photos.encode import INVENTED, Encoded, Provenance, as_it_was, encode_photo
from tasks.photos.formats import PhotoError
from tasks.shard.boundary import photo_boundary, within
from tasks.shard.dehaze import dark_channel_pixels
from tasks.shard.loaded import Loaded
from tasks.shard.outcome import Columns, Outcome
from tasks.shard.progress import PROGRESS
from tasks.shard.restore import restoration_columns, restored_like, restored_pixels, said_to_be_invented
from tasks.store.errors import NotFound
from tasks.store.ledger import Ledger
from tasks.store.objects import read_under

MAX_PSNR = 100.0  # dB, given to identical pictures
GAP = 2
"""Blocks of pixels at the least to a pixel of a smaller picture, if the large one is averaged by blocks first."""


@dataclass(frozen=True)
class Finisher:
    """Renders, encodes, stores and measures the photos of one shard."""

    ledger: Ledger
    plan: int
    config: RunConfig
    run_id: str
    model: Model | None
    reference: str | None

    def all(self, photos: list[Loaded], outcomes: list[Outcome | None]) -> None:
        """Finish each photo; one that cannot be finished fails alone. Frees the pixels."""
        for item, outcome in zip(photos, outcomes, strict=True):
            if item.stowed is not None:
                with photo_boundary(item, "while it was decoded once more"):
                    item.photo = self._decoded_again(item.stowed)
            if outcome is not None and item.photo is not None:
                item.columns = replace(outcome.columns, strength=outcome.strength)
                if outcome.failure is not None:
                    item.fail(outcome.failure)
                else:
                    with photo_boundary(item, "while its picture was written"):
                        self._one(item, item.photo, outcome)
            if item.photo is not None:
                height, width = item.photo.size
                item.columns = replace(item.columns, height=height, width=width)
            item.photo = item.stowed = item.small = item.view = item.mask = item.depth = None
            item.processed_at = datetime.now(UTC)
            PROGRESS.add("photos")
            PROGRESS.add("failed", int(item.failure is not None))

    def _decoded_again(self, data: bytes) -> Photo:
        limits = PhotoLimits(max_pixels=self.config.max_pixels)
        return within(self.config.photo_timeout, lambda: decode_photo(data, limits), "to decode")

    def _one(self, item: Loaded, photo: Photo, outcome: Outcome) -> None:
        """Render, encode, store and measure one photo. Raises PhotoError where it cannot be done."""
        if outcome.publish == "nothing":
            return
        pixels, encoded = within(
            self.config.photo_timeout, lambda: self._encoded(item, photo, outcome), "to render and encode"
        )
        clock = perf_counter()
        picture = self.ledger.pictures.put(self.plan, item.planned.key, encoded.data, encoded.suffix)
        item.columns = replace(
            item.columns,
            output_path=picture.path,
            output_sha256=picture.sha256,
            metadata_dropped=list(encoded.dropped),
        )
        if self.reference is not None:
            item.columns = item.columns.measured(self._compare(item, photo, pixels))
        item.seconds["write"] += perf_counter() - clock

    def _encoded(self, item: Loaded, photo: Photo, outcome: Outcome) -> tuple[Pixels, Encoded]:
        """The picture at full resolution, and as a file."""
        clock = perf_counter()
        pixels = self._pixels(photo, outcome, item)
        if self.config.operation == "dehaze" and pixels is not photo.pixels:
            item.columns = told_how_clear(item.columns, photo.pixels, pixels)
        if outcome.publish == "model-size":
            photo = replace(photo, alpha=None)
        elif outcome.publish == "restored":
            item.columns = restoration_columns(self.config, item, photo, pixels)
            photo = restored_like(self.config, photo)
        item.seconds["render"] = perf_counter() - clock
        clock = perf_counter()
        config = self.config
        kept = as_it_was(photo, config.image_format, config.metadata) if pixels is photo.pixels else None
        encoded = kept or encode_photo(
            pixels,
            photo,
            config.image_format,
            quality=config.quality,
            chroma=config.chroma,
            provenance=self._provenance(item),
            policy=config.metadata,
        )
        item.seconds["write"] = perf_counter() - clock
        return pixels, encoded

    def _pixels(self, photo: Photo, outcome: Outcome, item: Loaded) -> Pixels:
        if outcome.publish == "model-size":
            picture: Pixels = (outcome.result.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            return picture
        if outcome.publish == "restored":
            return restored_pixels(self.config, item, photo, outcome)
        if self.config.dehaze_variant == "dcp":
            return dark_channel_pixels(photo.pixels, outcome.strength, item.mask)
        if outcome.strength == 0:
            return photo.pixels
        if outcome.restoration is not None:
            return restore(outcome.restoration, photo.pixels, outcome.strength, item.mask)
        return render(photo.pixels, outcome.source, outcome.result.clamp(0, 1), outcome.strength, item.mask)

    def _provenance(self, item: Loaded) -> Provenance | None:
        if not self.config.provenance:
            return None
        digest = self.model.digest if self.model else "dark-channel-prior"
        if self.model is None and self.config.dehaze_variant == "density":
            digest = weights_digest(self.config.haze_weights)
        made = Provenance(f"Fixpoint {version('fixpoint-diffusion')}", self.run_id, digest)
        if self.config.operation != "restore":
            return made
        return replace(made, digital_source_type=INVENTED, invented=said_to_be_invented(self.config, item.columns))

    def _compare(self, item: Loaded, photo: Photo, pixels: Pixels) -> dict[str, float]:
        """PSNR and SSIM of input and output against the reference photo of the same key, if there is a readable one.

        Raises StoreError where the store fails: the shard is tried again, lest a row be without its measures for good.
        """
        try:
            reference = decode_photo(read_under(self.reference or ".", item.planned.key)).pixels
        except (NotFound, PhotoError):
            return {}
        measures, truth = {}, _as_tensor(reference)
        for name, samples in (("input", photo.pixels), ("output", pixels)):
            candidate = _as_tensor(samples)
            if candidate.shape == truth.shape:
                measures[f"psnr_{name}"] = min(float(psnr(candidate, truth)[0]), MAX_PSNR)
                measures[f"ssim_{name}"] = float(ssim(candidate, truth)[0])
                measures[f"ciede2000_{name}"] = ciede2000(*(at_side(x, LONGEST_SIDE) for x in (samples, reference)))
        return measures


def told_how_clear(columns: Columns, before: Pixels, after: Pixels) -> Columns:
    """The columns with how much clearer the veiled part became, as a measure and in words."""
    c = clarity(at_side(before, LONGEST_SIDE), at_side(after, LONGEST_SIDE))
    said = [columns.reason or "", f"The veiled part is {c.gain:.1f} times as clear." if c.measured else ""]
    measures = {
        **({"clearer": c.gain} if c.measured else {}),
        "light": c.light,
        "cast": c.cast,
        "grain": c.grain,
        "crushed": c.crushed,
        "cleared": float(c.cleared),
        "harmed": float(bool(c.harms)),
    }
    return replace(columns.measured(measures), reason=" ".join(filter(None, said)))


def at_side(pixels: Pixels, longest: int) -> torch.Tensor:
    """A photo (H, W, 3) brought to ``longest`` pixels by area averages: (3, h, w) in [0, 1]."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    scale = longest / max(eight.shape[:2])
    size = (max(1, round(eight.shape[1] * scale)), max(1, round(eight.shape[0] * scale)))
    if (block := int(1 / scale / GAP)) > 1:
        eight = block_means(eight, block, block)
    small = np.array(Image.fromarray(eight).resize(size, Image.Resampling.BOX))
    return torch.from_numpy(small).permute(2, 0, 1).float() / 255


def _as_tensor(pixels: Pixels) -> torch.Tensor:
    """(H, W, 3) integers to (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)[None]
