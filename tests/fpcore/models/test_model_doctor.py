import shutil

import pytest
import torch

from fpcore.models.doctor import DoctorReport, LiveBytes, examine

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("family", "prediction", "parts"),
    [
        ("sd1", "epsilon", {"unet", "vae", "text_encoder"}),
        ("sd2", "v_prediction", {"unet", "vae", "text_encoder"}),
        ("sdxl", "epsilon", {"unet", "vae", "text_encoder", "text_encoder_2"}),
    ],
)
def test_report(model_folder, family, prediction, parts):
    report = examine(str(model_folder(family)), device="cpu")
    assert report.loads
    assert (report.family, report.prediction_type, report.image_size) == (family, prediction, (64, 64))
    assert (report.device, report.dtype) == ("cpu", "float32")
    assert set(report.parameters) == parts
    assert report.weights_bytes == 4 * sum(report.parameters.values())
    assert report.terminal_snr == pytest.approx(0.00468, rel=0.01)
    assert 0 < report.row_seconds < 60
    assert report.largest_batch is None or report.largest_batch > 10
    assert any("guidance_scale 7.5" in sentence for sentence in report.recommendations)


def test_row_memory_grows_with_the_picture_not_with_the_batch(model_folder):
    two, six = (examine(str(model_folder("sd1")), device="cpu", rows=rows) for rows in (2, 6))
    assert two.row_bytes == pytest.approx(six.row_bytes, rel=0.05)
    assert two.row_bytes > 32 * 8 * 8 * 4  # at least one feature map of the first level


def test_half_precision_is_remarked_on(model_folder):
    report = examine(str(model_folder("sd1")), device="cpu", torch_dtype="bfloat16", vae_dtype="float16")
    text = " ".join(report.recommendations)
    assert "In bfloat16 residuals stay near 8e-03" in text
    assert "set vae_dtype to float32" in text


def test_what_does_not_load_is_reported(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("sd1"), tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    report = examine(str(folder), device="cpu")
    assert not report.loads
    assert "unet/diffusion_pytorch_model.bin is a pickle file" in report.error
    assert examine("nonsense") == DoctorReport("nonsense", examine("nonsense").error)


def test_out_of_memory_is_reported(model_folder, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fpcore.models.model.Model.predict", full)
    report = examine(str(model_folder("sd1")), device="cpu")
    assert report.error == "does not fit the device's memory"
    assert "cpu_offload" in report.recommendations[0]


def test_live_bytes_on_a_known_program():
    x = torch.ones(1000)
    with LiveBytes() as live:
        a = x + 1  # 4000 bytes
        b = a * 2  # 8000
        del a  # 4000
        c = b.view(10, 100).double()  # 4000 + 8000
        del b, c
        assert live.now == 0
        torch.zeros(100)
    assert live.peak == 12_000
