"""Stable Diffusion 3 and FLUX against diffusers' own pipelines, assembled by diffusers from the same folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor

from fpcore.editing.flow_edit import edit_flow
from fpcore.editing.settings import EditSettings
from fpcore.inversion.criteria import Status
from fpcore.inversion.flow_samplers import FLOW_SAMPLERS, Controllers, FlowSampler, invert_flow, sample_flow
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.load import load_model
from fpcore.models.model import Model
from fpcore.models.sizing import fit_size, size_multiple
from tests.tiny_models import tiny_flux, tiny_sd3

BUILDERS = {
    "sd3": tiny_sd3,
    "sd3.5": lambda folder: tiny_sd3(folder, large=True),
    "sd3 without T5": lambda folder: tiny_sd3(folder, with_t5=False),
    "flux": tiny_flux,
    "flux schnell": lambda folder: tiny_flux(folder, guidance_embeds=False),
}
STEPS = 4
pytestmark = pytest.mark.model


@pytest.fixture(scope="module", params=list(BUILDERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp("flow") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def pipeline(folder: Path, model: Model) -> Any:
    kind = FluxPipeline if model.family == "flux" else StableDiffusion3Pipeline
    absent = [
        part for part in ("text_encoder_3", "tokenizer_3") if model.family == "sd3" and not (folder / part).exists()
    ]
    made = kind.from_pretrained(folder, local_files_only=True, **dict.fromkeys(absent))
    made.set_progress_bar_config(disable=True)
    return made


def noise(model: Model, rows: int = 1, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.randn((rows, *model.latent_shape(*size)), generator=torch.Generator().manual_seed(0))


def relative(x: Tensor, reference: Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


def test_family_and_size(model: Model) -> None:
    assert model.is_flow
    assert model.image_size == (64, 64)
    assert model.latent_shape(64, 96) == (16, 8, 12)
    assert size_multiple(model) == 16
    assert fit_size(640, 480, model) == (74, 55)
    assert model.embed(["a cat", "a dog", ""]).rows(torch.tensor([1])).embeddings.shape[0] == 1


@torch.no_grad()
def test_samples_of_any_shape_are_the_pipelines(model: Model, pipeline: Any) -> None:
    """Text, timesteps, shift, packing, and the transformer, for a picture that is not square."""
    z, scale = noise(model, size=(64, 96)), 2.5
    told = {"guidance_scale": scale} if model.guidance_distilled else {"guidance_scale": 1.0}
    size: dict[str, Any] = {"height": 64, "width": 96, "num_inference_steps": STEPS, "output_type": "latent"}
    start = z
    if model.family == "flux":
        start = pipeline._pack_latents(z, 1, 16, 8, 12)
        size["max_sequence_length"] = 512
    theirs = pipeline("a photo of a cat", latents=start.clone(), **told, **size).images
    if model.family == "flux":
        theirs = pipeline._unpack_latents(theirs, 64, 96, pipeline.vae_scale_factor)
    schedule = Schedule.from_scheduler(model.scheduler_for(z), STEPS)
    condition = model.embed(["a photo of a cat"]).guided(scale)
    ours = sample(model.under(condition), schedule, z)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pictures_and_latents_are_the_pipelines(model: Model, pipeline: Any) -> None:
    pixels = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean = pipeline.vae.encode(pixels).latent_dist.mode()
    expected = (mean - pipeline.vae.config.shift_factor) * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(model.encode(pixels), expected)
    torch.testing.assert_close(model.decode(expected), pipeline.vae.decode(mean).sample, rtol=1e-4, atol=1e-4)


def test_certified_inversion_comes_back(model: Model) -> None:
    z0, condition = noise(model, 2), model.embed(["a photo of a cat", "haze"])
    schedule = Schedule.from_scheduler(model.scheduler_for(z0), STEPS)
    predict = model.under(condition)
    found = invert(predict, schedule, z0, method("certified", tolerance=1e-6))
    assert set(found.status) <= {Status.CONVERGED, Status.UNCERTIFIED}
    assert relative(sample(predict, schedule, found.latents), z0) <= 1e-4


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_every_sampler_edits(model: Model, sampler: FlowSampler) -> None:
    z0, words = noise(model, 2), (["a photo of a cat"] * 2, ["a photo of a dog"] * 2)
    schedule = Schedule.from_scheduler(model.scheduler_for(z0), 8)
    predict = model.under(model.embed(words[0]))
    latents = invert_flow(sampler, predict, schedule, z0)
    back = sample_flow(sampler, predict, schedule, latents, z0)
    edited = edit_flow(model, schedule, latents, z0, *words, EditSettings(guidance_scale=3.0), sampler=sampler)
    torch.testing.assert_close(edited.source, back, rtol=1e-4, atol=1e-4)
    assert bool(edited.finite.all())
    assert relative(edited.target, edited.source) > 1e-4
    if sampler == "rf-inversion":  # held by the picture all the way down, it comes back whatever the latent
        held = Controllers(eta=1.0, until=1.0)
        assert relative(sample_flow(sampler, predict, schedule, latents, z0, controllers=held), z0) < 1e-4
    else:
        assert relative(edited.source, z0) < 0.5


def test_euler_edits_from_a_fixed_point_keep_regions_and_paths(model: Model) -> None:
    z0, words = noise(model, 1), (["a photo of a cat"], ["a photo of a dog"])
    schedule = Schedule.from_scheduler(model.scheduler_for(z0), STEPS)
    found = invert(
        model.under(model.embed(words[0])), schedule, z0, method("certified", tolerance=1e-5), keep_trajectory=True
    )
    regions = torch.zeros((1, 1, 8, 8), dtype=torch.bool)
    regions[..., :4] = True
    edited = edit_flow(
        model, schedule, found.latents, z0, *words, EditSettings("direct-inversion", 2.0),
        trajectory=found.trajectory, regions=regions,
    )  # fmt: skip
    assert torch.equal(edited.source, z0)
    assert torch.equal(edited.target[..., 4:], z0[..., 4:])
    assert relative(edited.target[..., :4], z0[..., :4]) > 1e-4
    with pytest.raises(ValueError, match="goes with guidance none"):
        edit_flow(model, schedule, found.latents, z0, *words, EditSettings("npi"), sampler="rf-solver")


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("transformer", {"in_channels": 96, "out_channels": 64}, "more than noise and text"),
        ("transformer", {"_class_name": "PixArtTransformer2DModel"}, "PixArtTransformer2DModel"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "needs a FlowMatchEulerDiscreteScheduler"),
        ("text_encoder_2", {"architectures": ["LlamaModel"]}, "LlamaModel"),
    ],
)
def test_what_is_no_such_model_is_refused(part: str, changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = tiny_flux(tmp_path / "flux")
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=named):
        load_model(str(folder), device="cpu")


def test_incomplete_and_unfit_settings_are_refused(tmp_path: Path) -> None:
    folder = tiny_flux(tmp_path / "flux")
    with pytest.raises(ValueError, match="attention=sdpa"):
        load_model(str(folder), device="cpu", attention="sliced")
    (folder / "tokenizer_2" / "tokenizer.json").rename(folder / "tokenizer_2" / "spiece.model")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_model(str(folder), device="cpu")
    shutil.rmtree(folder / "text_encoder_2")
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(ValueError, match="without text_encoder_2, tokenizer_2"):
        load_model(str(folder), device="cpu")
