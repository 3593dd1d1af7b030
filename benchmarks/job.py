"""What all parts of the speed benchmark share: a model, its peer, photographs, sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.inversion import free_crops, open_picture
from fpcore.builtin.rendered_haze import render_haze
from fpcore.dehazing.dehaze import DehazeSettings
from fpcore.inversion.invert import Predict
from fpcore.inversion.methods import Method, method
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model

SOURCE = "haze"
CERTIFIED = method("certified")


@dataclass(frozen=True)
class Job:
    """What all parts share: ``hazy`` and ``clear`` (M, 3, H, W) in [0, 1], at the model's size.

    ``peer`` has the same weights, never compiled and laid out as diffusers loads them. Residuals are measured with it.
    """

    model: Model
    peer: Model
    hazy: Tensor
    clear: Tensor
    steps: int
    batch_size: int
    repeats: int
    files: int = 48
    """Photographs of a whole run."""

    @property
    def schedule(self) -> Schedule:
        """The walk in ``steps``."""
        return Schedule.from_scheduler(self.model.scheduler, self.steps)

    def first(self, count: int) -> Job:
        """The same with fewer photographs."""
        return replace(self, hazy=self.hazy[:count], clear=self.clear[:count])

    def settings(self, dehazing_method: str, chosen: Method = CERTIFIED) -> DehazeSettings:
        """Ours, as shipped but for the method."""
        return DehazeSettings(
            dehazing_method=dehazing_method,  # type: ignore[arg-type]
            method=chosen,
            num_inference_steps=self.steps,
            batch_size=self.batch_size,
        )

    def predict(self, prompt: str) -> Predict:
        """The network under one prompt for all photographs."""
        condition = self.model.embed([prompt]).repeat(len(self.hazy))
        return lambda z, t, image: self.model.predict(z, t, condition.rows(image))

    def as_peer(self) -> Job:
        """The same without what makes our network calls quick."""
        return replace(self, model=self.peer)


def warm(job: Job, rows: int) -> None:
    """What the first calls of so many rows take, compiling and recording, is not counted."""
    shape = job.model.latent_shape(*job.model.image_size)
    z, t = torch.zeros(rows, *shape, device=job.model.device), torch.full((rows,), 500, device=job.model.device)
    with torch.no_grad():
        for _ in range(3):
            job.model.predict(z, t, job.model.embed([SOURCE]).repeat(rows))


def photographs(count: int, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Hazy and clear (count, 3, h, w) in [0, 1]; more than there are crops: with other haze, which is rendered small."""
    small = (min(size[0], 64), min(size[1], 64))
    crops = [np.asarray(open_picture(c).resize(small[::-1], 4), np.float32) / 255 for c in free_crops()]  # 4: BOX
    clear = torch.from_numpy(np.stack([crops[i % len(crops)] for i in range(count)])).permute(0, 3, 1, 2).contiguous()
    generator = torch.Generator().manual_seed(seed)
    amount = 0.2 + 0.5 * torch.rand(count, generator=generator)
    hazy = render_haze(clear, amount, generator).image
    if small == size:
        return hazy.clamp(0, 1), clear
    hazy, clear = (torch.nn.functional.interpolate(x, size, mode="bicubic").clamp(0, 1) for x in (hazy, clear))
    return hazy, clear
