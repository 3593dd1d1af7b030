"""Old and odd configurations become what diffusers' own pipeline makes of them, or are refused before any work."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.load import load_model

DDIM = {"_class_name": "DDIMScheduler"}
VARIANTS = {
    "offset 0": ({**DDIM, "steps_offset": 0, "_diffusers_version": "0.2.2"}, 10),
    "trailing, alpha one": ({**DDIM, "timestep_spacing": "trailing", "set_alpha_to_one": True}, 7),
    "cosine": ({**DDIM, "beta_schedule": "squaredcos_cap_v2"}, 10),
    "x0": ({**DDIM, "prediction_type": "sample"}, 10),
    "PNDM, as Stable Diffusion 1": ({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 0}, 10),
    "Euler ancestral, linspace": (
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "linspace"},
        10,
    ),
    "DPM++, trailing": ({"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing"}, 10),
    "DDPM": ({"_class_name": "DDPMScheduler", "variance_type": "fixed_small"}, 10),
    "500 trained steps": ({**DDIM, "num_train_timesteps": 500}, 10),
    "linear": ({**DDIM, "beta_schedule": "linear"}, 10),
    "nothing of the prediction": ({**DDIM, "prediction_type": None}, 10),
    "one step": ({**DDIM, "set_alpha_to_one": True}, 1),
    "settings of others": ({**DDIM, "foo": 1, "bar": {"a": [2]}, "use_karras_sigmas": True}, 10),
    "zero terminal SNR, leading": ({**DDIM, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, 10),
}


def variant(folder, into, scheduler=None, unet=None):
    """A copy of a model with other settings; None takes a setting away."""
    shutil.copytree(folder, into)
    for file, changes in (("scheduler/scheduler_config.json", scheduler), ("unet/config.json", unet)):
        config = json.loads((into / file).read_text()) | (changes or {})
        (into / file).write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return into


def pipeline_of(folder):
    diffusers.utils.logging.set_verbosity_error()
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(VARIANTS))
def test_samples_are_the_pipelines(name, model_folder, tmp_path):
    changes, steps = VARIANTS[name]
    folder = variant(model_folder("sd1"), tmp_path / "model", changes)
    pipeline, model = pipeline_of(folder), load_model(str(folder), device="cpu")
    assert model.scheduler.config.steps_offset == pipeline.scheduler.config.steps_offset == 1
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
    z = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    theirs = pipeline(
        "a cat", num_inference_steps=steps, guidance_scale=1.0, latents=z.clone(), output_type="latent"
    ).images
    schedule, condition = Schedule.from_scheduler(model.scheduler, steps), model.embed(["a cat"])
    torch.testing.assert_close(sample(model.under(condition), schedule, z), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("missing", [{"architectures": None}, {"architectures": []}])
def test_a_text_encoder_that_does_not_name_its_class_is_the_pipelines(missing, model_folder, tmp_path):
    folder = variant(model_folder("sd1"), tmp_path / "model")
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | missing))
    theirs, ours = pipeline_of(folder).text_encoder, load_model(str(folder), device="cpu").text_encoders[0]
    assert type(ours) is type(theirs)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", ["0.2.2", "0.9.0", None])
def test_old_sample_sizes_are_read_as_the_pipeline_reads_them(version, model_folder, tmp_path):
    """Below 0.9 a width under 64 is 64, from 0.9 on it is what is written."""
    changes = {"sample_size": 32, "_diffusers_version": version}
    folder = variant(model_folder("sd1"), tmp_path / "model", unet=changes)
    expected = pipeline_of(folder).unet.config.sample_size if version else 32
    assert load_model(str(folder), device="cpu").image_size == (8 * expected, 8 * expected)


def test_xl_and_built_in_models_keep_their_own_offset_and_size(model_folder, tmp_path):
    folder = variant(model_folder("sdxl"), tmp_path / "xl", {"steps_offset": 0}, {"_diffusers_version": "0.2.2"})
    model = load_model(str(folder), device="cpu")
    assert model.scheduler.config.steps_offset == 0
    assert model.image_size == (64, 64)
    assert load_model("builtin:haze", device="cpu").scheduler.config.steps_offset == 0


@pytest.mark.parametrize(
    ("spacing", "offset", "steps", "fits"),
    [("leading", 1, 999, True), ("leading", 1, 1000, False), ("leading", 0, 1000, True), ("leading", 20, 50, False),
     ("leading", 19, 50, True), ("trailing", 1, 1000, True), ("linspace", 1, 1000, True)],
)  # fmt: skip
def test_steps_beyond_the_trained_ones_are_refused(spacing, offset, steps, fits):
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset, clip_sample=False)
    if fits:
        assert len(Schedule.from_scheduler(scheduler, steps)) == steps
    else:
        with pytest.raises(ValueError, match=f"end at timestep 1000, .* up to 999: use at most {steps - 1} steps"):
            Schedule.from_scheduler(scheduler, steps)
