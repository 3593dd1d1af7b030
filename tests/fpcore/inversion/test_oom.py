"""Out of memory on the device: fewer rows at a time, the same results, nobody lost."""

import pytest
import torch
from torch import Tensor

from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.sample import sample
from tests.fpcore.closed_form import mixture, sd_schedule


class SmallDevice:
    """A network on a device that holds at most ``fits`` rows."""

    def __init__(self, fits: int) -> None:
        self.schedule = sd_schedule(8)
        self.model = mixture(self.schedule)
        self.fits, self.calls = fits, []

    def __call__(self, z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        self.calls.append(len(z))
        if len(z) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model.predict(z, t, image)


@pytest.mark.long
@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8, 16])
def test_rows_are_halved_until_they_fit_and_results_stay(fits: int) -> None:
    device = SmallDevice(fits)
    z0 = device.model.draw(16, torch.Generator().manual_seed(0))
    backoff = OOMBackoff(device)
    inversion = invert(backoff, device.schedule, z0, method("certified"), batch_size=16)
    expected = invert(device.model.predict, device.schedule, z0, method("certified"), batch_size=16)
    torch.testing.assert_close(inversion.latents, expected.latents, rtol=1e-12, atol=1e-12)
    assert (backoff.rows or 16) <= max(fits, 1)
    assert (backoff.rows is None) == (fits == 16)


def test_it_stays_halved() -> None:
    device = SmallDevice(4)
    backoff = OOMBackoff(device)
    z = device.model.draw(16, torch.Generator().manual_seed(0))
    sample(backoff, device.schedule, z, batch_size=16)
    too_large = [n for n in device.calls if n > 4]
    assert too_large == [16, 8]


def test_one_row_that_does_not_fit_is_the_callers_error() -> None:
    device = SmallDevice(0)
    with pytest.raises(torch.OutOfMemoryError):
        sample(OOMBackoff(device), device.schedule, device.model.draw(4, torch.Generator().manual_seed(0)))
    assert device.calls == [4, 2, 1]
