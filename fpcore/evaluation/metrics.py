"""Measures of a photograph, or of a result against a reference or its input: one number a picture.

Pictures are float tensors (B, 3, H, W) in [0, 1]; every function returns (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fpcore.evaluation.dark_channel import PATCH, dark_channel
from fpcore.evaluation.windows import window_mean

LUMA = (0.299, 0.587, 0.114)
COLLAPSED = 0.2
"""Structure distance to the input, at model size, from which a result counts as a different picture."""


def psnr(image: Tensor, reference: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB over all pixels and colours of each picture, peak 1; infinite if equal.

    ``where`` (B, 1, H, W) bool: over these pixels alone; NaN where there are none.
    """
    if where is not None:
        squares = torch.where(where, (image - reference).square(), 0).flatten(1).sum(1)
        return -10 * (squares / (image.shape[1] * where.flatten(1).sum(1))).log10()
    from torchmetrics.functional.image import peak_signal_noise_ratio  # here: it imports its measures of text and sound

    dims = tuple(range(1, image.ndim))
    return peak_signal_noise_ratio(image, reference, data_range=1.0, reduction="none", dim=dims)


def ssim(image: Tensor, reference: Tensor, where: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11, σ 1.5, range 1, mean over colours and pixels.

    The border counts, with the pictures mirrored there, as torchmetrics does it; scikit-image leaves 5 pixels out.
    ``where`` (B, 1, H, W) bool: mean over the windows around these pixels alone; NaN where there are none.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        image, reference, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none",
        return_full_image=True,
    )  # fmt: skip
    assert isinstance(values, tuple)
    if where is None:
        return values[0].reshape(len(image))
    return (values[1].mean(1, keepdim=True) * where).flatten(1).sum(1) / where.flatten(1).sum(1)


def dark_channel_density(image: Tensor, patch: int = PATCH) -> Tensor:
    """Mean of the dark channel: near 0 in clear outdoor photographs, towards 1 in thick haze."""
    return dark_channel(image, patch).mean((1, 2, 3))


def contrast(image: Tensor) -> Tensor:
    """RMS contrast: standard deviation of the luma."""
    return luma(image).flatten(1).std(1, correction=0)


def colourfulness(image: Tensor) -> Tensor:
    """Hasler and Süsstrunk (2003), for colours in [0, 255] as published: 0 grey, 15 slight, 45 average, 109 extreme."""
    r, g, b = (image * 255).flatten(2).unbind(1)
    opponents = torch.stack([r - g, (r + g) / 2 - b])  # (2, B, N)
    spread, centre = opponents.std(2, correction=0), opponents.mean(2)
    return (spread**2).sum(0).sqrt() + 0.3 * (centre**2).sum(0).sqrt()


def clipped_share(image: Tensor, margin: float = 0.5 / 255) -> Tensor:
    """Share of pixels that are wholly black or wholly white, to within ``margin``: detail lost for good."""
    black = (image <= margin).all(1)
    white = (image >= 1 - margin).all(1)
    return (black | white).float().mean((1, 2))


def structure_distance(image: Tensor, reference: Tensor) -> Tensor:
    """How differently two pictures are drawn: 0 for the same edges, 1 for unrelated or no edges, up to 2 for inverted.

    One minus the correlation of the lumas in 7 × 7 windows, the windows weighted by their standard deviations:

        1 − (mean Cov(x, y) + n) / mean sqrt((Var x + n) (Var y + n)),    n = 1e-6,

    the structure term of SSIM, blind to local changes of brightness and contrast such as haze. Meant for the model's
    size. At 32 × 32 on 60 SOTS-outdoor pairs, clear against hazy is at most .07, another clear picture at least .35.
    """
    x, y = luma(image.double()), luma(reference.double())
    mean_x, mean_y = _window(x), _window(y)
    covariance = _window(x * y) - mean_x * mean_y
    variance_x = (_window(x * x) - mean_x**2).clamp_min(0)
    variance_y = (_window(y * y) - mean_y**2).clamp_min(0)
    noise = 1e-6  # in squared luma: below this there is nothing to see
    spread = ((variance_x + noise) * (variance_y + noise)).sqrt()
    return (1 - (covariance.mean((1, 2, 3)) + noise) / spread.mean((1, 2, 3))).float()


def luma(image: Tensor) -> Tensor:
    """Rec. 601 luma: (B, 3, H, W) to (B, 1, H, W)."""
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _window(x: Tensor) -> Tensor:
    return window_mean(x, 7)
