from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpcore.models.sizing import crop, fit_size, pad, size_multiple


def like(family, side, scale=8, levels=4):
    """What sizing asks of a model."""
    unet = SimpleNamespace(config=SimpleNamespace(block_out_channels=(32,) * levels))
    return SimpleNamespace(family=family, image_size=(side, side), scale_factor=scale, unet=unet, is_flow=False)


SD1, SDXL, HAZE = like("sd1", 512), like("sdxl", 1024, levels=3), like("builtin", 32, scale=4, levels=2)


@pytest.mark.parametrize(
    ("model", "photo", "expected"),
    [
        (SD1, (512, 512), (512, 512)),
        (SD1, (4000, 3000), (591, 443)),
        (SD1, (3000, 4000), (443, 591)),
        (SD1, (100, 100), (512, 512)),
        (SD1, (65500, 1), (1024, 1)),
        (SD1, (1, 1), (512, 512)),
        (SDXL, (4000, 3000), (1182, 887)),
        (HAZE, (4000, 3000), (32, 32)),
        (HAZE, (1, 65500), (32, 32)),
    ],
)
def test_fit_size(model, photo, expected):
    assert fit_size(*photo, model) == expected


def test_a_photo_without_pixels():
    with pytest.raises(ValueError, match="no content"):
        fit_size(0, 10, SD1)


def test_multiples():
    assert [size_multiple(model) for model in (SD1, SDXL, HAZE)] == [64, 32, 8]


@given(width=st.integers(1, 70_000), height=st.integers(1, 70_000))
def test_any_photo_gets_a_size_the_model_can_take(width, height):
    """Near the trained number of pixels and the photo's aspect, at most twice the trained side."""
    w, h = fit_size(width, height, SD1)
    assert 1 <= w <= 1024
    assert 1 <= h <= 1024
    assert w * h <= 512 * 512 * 1.01
    aspect = width / height
    if 0.25 <= aspect <= 4:
        assert w * h >= 512 * 512 * 0.99
        assert w / h == pytest.approx(aspect, rel=0.01)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (63, 65), (1, 130), (100, 40)])
def test_pad_process_crop(size, tiny_model):
    """Through VAE and UNet and back to the photo's own size; the photo's pixels are not moved."""
    model = tiny_model("sd1")
    pixels = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    padded = pad(pixels, model)
    assert [side % 64 for side in padded.shape[-2:]] == [0, 0]
    assert torch.equal(crop(padded, *size), pixels)
    assert torch.equal(padded[..., -1, -1], pixels[..., -1, -1])
    latents = model.encode(padded)
    assert latents.shape[1:] == model.latent_shape(*padded.shape[-2:])
    output = model.predict(latents, torch.tensor([500]), model.embed([""]))
    assert output.shape == latents.shape
    assert crop(model.decode(output), *size).shape == pixels.shape


def test_unpadded_sizes_are_refused(tiny_model):
    model = tiny_model("sd1")
    with pytest.raises(ValueError, match=r"63×65 is no multiple of 8 pixels: pad the picture first"):
        model.encode(torch.zeros((1, 3, 65, 63)))
