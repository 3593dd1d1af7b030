"""The built-in models by ONNX Runtime: PyTorch's numbers, and PyTorch itself for what the graph does not hold."""

import pytest
import torch

from fpcore.editing.attention import RecordAttention, controlled
from fpcore.models.load import load_model
from fpcore.models.onnx_runtime import OnnxUNet

pytestmark = pytest.mark.model


@pytest.mark.parametrize("name", ["builtin:haze", "builtin:scenes"])
def test_it_gives_pytorchs_numbers_for_any_number_of_rows(name: str) -> None:
    plain, quick = load_model(name, onnx=False, device="cpu"), load_model(name, onnx=True, device="cpu")
    assert isinstance(quick.unet, OnnxUNet)
    assert quick.digest == plain.digest
    for rows in (1, 3):
        z = torch.randn(rows, *plain.latent_shape(*plain.image_size), generator=torch.Generator().manual_seed(rows))
        t, words = torch.tensor([1, 500, 999])[:rows], plain.embed(["haze", "", "a clear day"]).rows(torch.arange(rows))
        with torch.no_grad():
            expected, found = plain.predict(z, t, words), quick.predict(z, t, words)
        assert float((found - expected).norm() / expected.norm()) < 2e-6


def test_control_gradients_and_other_shapes_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("builtin:haze", onnx=True, device="cpu")

    class Refused:
        def run(self, *args: object) -> None:
            raise AssertionError("the graph does not hold this")

    monkeypatch.setattr(model.unet, "session", Refused())
    shape = model.latent_shape(*model.image_size)
    z, t, words = torch.zeros(1, *shape), torch.tensor([500]), model.embed(["haze"])
    with torch.no_grad(), controlled(model.unet, RecordAttention(shape[1:])):
        model.predict(z, t, words)
    with torch.no_grad():
        assert model.predict(torch.zeros(1, shape[0], 16, 16), t, words).shape[-1] == 16
    wanted = z.clone().requires_grad_()
    model.predict(wanted, t, words).sum().backward()
    assert wanted.grad is not None
    with torch.no_grad(), pytest.raises(AssertionError, match="does not hold"):
        model.predict(z, t, words)


def test_what_does_not_go_together_is_refused() -> None:
    for options in ({"torch_dtype": "bfloat16"}, {"attention": "eager"}, {"compile": True}):
        with pytest.raises(ValueError, match="onnx takes a built-in model"):
            load_model("builtin:haze", onnx=True, device="cpu", **options)  # type: ignore[arg-type]
