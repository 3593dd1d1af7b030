"""Every family against diffusers' own pipeline, assembled by diffusers from the same folder."""

import diffusers
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel

from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.layout import read_layout
from fpcore.models.load import detect_family
from tests.tiny_models import PUBLISHED

FAMILIES = ["sd1", "sd2", "sdxl", "sd1-tiny-vae"]
LONG_PROMPT = "a photo of the desert and " * 30


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tiny_model):
    return tiny_model(family)


@pytest.fixture(scope="module")
def pipeline(family, model_folder):
    """Built by diffusers' and transformers' loaders alone."""
    folder = model_folder(family)

    def part(cls, name, **options):
        return cls.from_pretrained(folder, subfolder=name, **options)

    vae = diffusers.AutoencoderTiny if family == "sd1-tiny-vae" else diffusers.AutoencoderKL
    parts = {
        "unet": part(UNet2DConditionModel, "unet"),
        "vae": part(vae, "vae"),
        "text_encoder": part(transformers.CLIPTextModel, "text_encoder"),
        "tokenizer": part(transformers.CLIPTokenizer, "tokenizer"),
        "scheduler": part(DDIMScheduler, "scheduler"),
    }
    if family == "sdxl":
        parts["text_encoder_2"] = part(transformers.CLIPTextModelWithProjection, "text_encoder_2")
        parts["tokenizer_2"] = part(transformers.CLIPTokenizer, "tokenizer_2")
        result = StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True, add_watermarker=False)
    else:
        result = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    result.set_progress_bar_config(disable=True)
    return result


def test_family_and_size(model, family):
    assert model.family == family.removesuffix("-tiny-vae")
    assert model.image_size == (64, 64)
    assert model.latent_shape(64, 128) == (4, 8, 16)
    assert model.scheduler.config.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    assert model.scheduler.config.steps_offset == 1
    assert model.scheduler.config.set_alpha_to_one is False


@pytest.mark.parametrize("prompt", ["", "haze", "a photo of a cat, with UNKNOWN wörds", LONG_PROMPT])
def test_embeddings_equal_the_pipelines(model, pipeline, family, prompt):
    condition = model.embed([prompt])
    with torch.no_grad():
        if family == "sdxl":
            expected, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
            if prompt == "":  # the null text is what the pipeline puts on the unconditional side
                _, expected, _, pooled = pipeline.encode_prompt("a cat", do_classifier_free_guidance=True)
            assert torch.equal(condition.pooled, pooled)
        else:
            expected, _ = pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(condition.embeddings, expected)


def test_embedding_does_not_depend_on_neighbours(model):
    together, alone = model.embed(["a cat", "", "a dog"]), model.embed(["a dog"])
    assert torch.equal(together.embeddings[2:], alone.embeddings)
    assert not torch.allclose(together.embeddings[0], together.embeddings[2])


def picture(model):
    """(1, 3, H, W) in [-1, 1]: colour ramps."""
    height, width = model.image_size
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return torch.stack([x.expand(height, width), y.expand(height, width), x * y])[None]


@torch.no_grad()
def test_encode_and_decode_equal_the_pipelines_vae(model, pipeline, family):
    pixels, vae = picture(model), pipeline.vae
    encoded = vae.encode(pipeline.image_processor.preprocess((pixels + 1) / 2))
    raw = encoded.latents if family == "sd1-tiny-vae" else encoded.latent_dist.mean
    latents = model.encode(pixels)
    torch.testing.assert_close(latents, raw * vae.config.scaling_factor, rtol=0, atol=5e-5)
    expected = pipeline.image_processor.postprocess(vae.decode(raw).sample, output_type="pt")
    torch.testing.assert_close((model.decode(latents) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-4)


def guided(model, prompt, scale):
    """The network's output for ``sample``, guided by hand."""

    def predict(z, t, index):
        c, null = model.embed([prompt]).repeat(len(z)), model.embed([""]).repeat(len(z))
        output = model.predict(z, t, c)
        return output if scale == 1 else (base := model.predict(z, t, null)) + scale * (output - base)

    return predict


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_sampling_equals_the_pipelines(model, pipeline, scale):
    """The same seed, prompt and steps give the same picture."""
    height, width = model.image_size
    options = {"height": height, "width": width, "num_inference_steps": 6, "guidance_scale": scale}
    expected = pipeline("a photo of a cat", generator=torch.Generator().manual_seed(7), output_type="pt", **options)
    noise = torch.randn((1, *model.latent_shape(height, width)), generator=torch.Generator().manual_seed(7))
    schedule = Schedule.from_scheduler(model.scheduler, 6)
    with torch.no_grad():
        latents = sample(guided(model, "a photo of a cat", scale), schedule, noise, batch_size=1)
        pixels = (model.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert expected.images.std() > 0.01
    torch.testing.assert_close(pixels, expected.images, rtol=0, atol=1e-4)


def test_image_to_latent_to_image(model, pipeline):
    """A picture, encoded and inverted, comes back from the inverted latent, in diffusers' pipeline too."""
    pixels, prompt = picture(model), "a photo of the sky"
    schedule, predict = Schedule.from_scheduler(model.scheduler, 6), guided(model, prompt, 1.0)
    with torch.no_grad():
        z0 = model.encode(pixels)
        inversion = invert(predict, schedule, z0, method("certified", tolerance=1e-6))
        regenerated = sample(predict, schedule, inversion.latents, batch_size=1)
    assert (inversion.latents - z0).abs().mean() > 0.02
    torch.testing.assert_close(regenerated, z0, rtol=0, atol=1e-4)
    height, width = model.image_size
    options = {"height": height, "width": width, "num_inference_steps": 6, "guidance_scale": 1.0}
    theirs = pipeline(prompt, latents=inversion.latents, output_type="pt", **options).images
    ours = (model.decode(regenerated) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "parameters"),
    [("sd1", 859_520_964), ("sd2", 865_910_724), ("sdxl", 2_567_463_684)],
)
def test_published_unets_at_full_size(family, parameters, model_folder):
    """The configurations the tiny models are scaled from are those of the published models."""
    with init_empty_weights():
        unet = UNet2DConditionModel(**PUBLISHED[family])
    assert sum(p.numel() for p in unet.parameters()) == parameters
    tiny = read_layout(model_folder(family)).components["unet"].config
    changed = {k for k, v in unet.config.items() if k in tiny and json_like(v) != tiny[k]}
    assert changed <= {
        "sample_size",
        "block_out_channels",
        "cross_attention_dim",
        "attention_head_dim",
        "transformer_layers_per_block",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
    }
    assert detect_family(read_layout(model_folder(family))) == family


def json_like(value):
    return list(value) if isinstance(value, tuple) else value
