"""How many rows a batch gets, and a compiled UNet that sees few shapes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fpcore.inversion.oom import OOMBackoff
from fpcore.models.compiled import Compiled
from fpcore.models.load import load_model
from fpcore.models.model import Model
from fpcore.models.rows import auto_batch_size, rows_that_fit


def test_a_processor_gets_few_rows_of_large_latents_and_many_of_small_ones(
    builtin_model: Callable[[str], Model], tiny_model: Callable[[str], Model]
) -> None:
    assert auto_batch_size(builtin_model("haze"), 32, 32) == 16
    stable = tiny_model("sd1")
    assert auto_batch_size(stable, 500, 512) == 1
    assert auto_batch_size(stable, 64, 64) == 16


@pytest.mark.parametrize(
    ("free", "two", "each", "most", "rows"),
    [(100, 10, 5, 32, 16), (100, 10, 1, 32, 32), (100, 10, 1, 2048, 64), (10, 20, 9, 32, 1), (9999, 10, 1, 24, 16)],
)
def test_rows_fill_what_is_free_but_for_a_fifth(free: int, two: int, each: int, most: int, rows: int) -> None:
    assert rows_that_fit(free, two, each, most) == rows
    assert rows == 1 or two + (rows - 2) * each <= 0.8 * free


class Toy(nn.Module):
    """The UNet's interface around one layer, with a note of the shapes it was traced for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dtype = nn.Linear(3, 3), torch.float32

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, **options: object) -> tuple[Tensor]:
        return (self.layer(z) + t[:, None] * encoder_hidden_states,)


class Noted(nn.Module):
    """Notes the numbers of rows that arrive."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shapes, self.calls = inner, set(), 0

    def forward(self, z: Tensor, *rest: object, **named: object) -> tuple[Tensor]:
        self.shapes.add(len(z))
        self.calls += 1
        return self.inner(z, *rest, **named)


@pytest.mark.long
def test_compiled_rows_equal_the_plain_ones_and_shapes_are_few() -> None:
    torch._dynamo.reset()
    plain = Toy().requires_grad_(False)
    compiled = Compiled(plain)
    noted = compiled.compiled = Noted(compiled.compiled)
    for rows in (1, 3, 4, 5, 7, 8, 2, 1):  # the last is a tail: the UNet's as it is
        z, t, text = torch.randn(rows, 3), torch.arange(rows), torch.randn(rows, 3)
        torch.testing.assert_close(compiled(z, t, text, None)[0], plain(z, t, text)[0])
    assert noted.shapes == {1, 4, 8}
    assert noted.calls == 7
    assert compiled.dtype == torch.float32


@pytest.mark.long
def test_rows_that_do_not_fit_are_not_filled_up_again() -> None:
    """Each size of picture has its own number of rows; after running out of memory fewer must really be fewer."""
    plain = Toy().requires_grad_(False)
    compiled = Compiled(plain)
    fits, tried = [8], []

    class Limited(nn.Module):
        def forward(self, z: Tensor, *rest: object, **named: object) -> tuple[Tensor]:
            tried.append(len(z))
            if len(z) > fits[0]:
                raise torch.OutOfMemoryError
            return (z,)

    compiled.compiled = Limited()
    backoff = OOMBackoff(lambda z, t, image: compiled(z, t, z, None)[0])
    backoff(torch.randn(8, 3), torch.arange(8), torch.arange(8))
    backoff(torch.randn(2, 5), torch.arange(2), torch.arange(2))
    fits[0] = 4
    backoff(torch.randn(8, 3), torch.arange(8), torch.arange(8))
    assert tried == [8, 2, 8, 4, 4]


def test_a_vae_that_runs_out_of_memory_takes_fewer_pictures() -> None:
    tried: list[int] = []

    def call(part: Tensor) -> Tensor:
        tried.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError
        return part + 1

    batch = torch.arange(7.0)[:, None]
    assert torch.equal(Model._in_parts(call, batch, pixels=512 * 512), batch + 1)
    assert tried == [7, 4, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        Model._in_parts(lambda part: call(part.repeat(3, 1)), batch, pixels=512 * 512)


def test_a_compiled_unet_cannot_be_moved_to_and_fro() -> None:
    with pytest.raises(ValueError, match="compile"):
        load_model("builtin:haze", device="meta", cpu_offload=True, compile=True)
