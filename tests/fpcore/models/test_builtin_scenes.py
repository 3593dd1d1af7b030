"""``builtin:scenes``: its words do what they say, and its inversions come back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fpcore.builtin
from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.evaluation.metrics import psnr
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model


def samples(model: Model, prompt: str, guidance_scale: float = 3.0, count: int = 4) -> Tensor:
    """(count, 3, 64, 64) in [-1, 1] from the same noises for every prompt."""
    schedule = Schedule.from_scheduler(model.scheduler, 10)
    words, null = model.embed([prompt]).repeat(count), model.embed([""]).repeat(count)
    noise = torch.randn((count, 48, 16, 16), generator=torch.Generator().manual_seed(3))

    def guided(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        free = model.predict(z, t, null.rows(image))
        return torch.lerp(free, model.predict(z, t, words.rows(image)), guidance_scale)

    return model.decode(sample(guided, schedule, noise, batch_size=count)).clamp(-1, 1)


def test_samples_have_the_colours_of_their_words(builtin_model: Callable[[str], Model]) -> None:
    model = builtin_model("scenes")
    colour = {
        name: samples(model, f"a photo of {name}").mean((2, 3)) for name in ("a desert", "an ocean", "a bamboo forest")
    }
    red, green, blue = 0, 1, 2
    warm = {name: (c[:, red] - c[:, blue]).mean() for name, c in colour.items()}
    assert warm["a desert"] > warm["an ocean"] + 0.2
    bamboo, ocean = colour["a bamboo forest"], colour["an ocean"]
    assert (bamboo[:, green] - bamboo[:, blue]).mean() > (ocean[:, green] - ocean[:, blue]).mean() + 0.2


def test_photographs_come_back_from_their_noise(builtin_model: Callable[[str], Model]) -> None:
    model = builtin_model("scenes")
    pictures = [
        np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BOX)) for _, p in list(clear_photographs())[:3]
    ]
    z0 = model.encode(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1)
    schedule, null = Schedule.from_scheduler(model.scheduler, 25), model.embed([""]).repeat(3)

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return model.predict(z, t, null.rows(image))

    found = invert(predict, schedule, z0, method("certified", tolerance=2e-3))
    back = sample(predict, schedule, found.latents)
    assert psnr((model.decode(back) + 1) / 2, (model.decode(z0) + 1) / 2).min() > 40


def test_the_built_in_models_stay_small() -> None:
    folder = Path(fpcore.builtin.__file__).parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 40e6
