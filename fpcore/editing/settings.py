"""How a pair is edited, as values: no tensor, so that a run's settings are read and checked without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GuidanceMode = Literal["none", "nti", "npi", "direct-inversion"]
GUIDANCE_MODES: tuple[GuidanceMode, ...] = ("none", "nti", "npi", "direct-inversion")
TokenMode = Literal["refine", "replace", "remove"]
TOKEN_MODES: tuple[TokenMode, ...] = ("refine", "replace", "remove")
PaddingRule = Literal["padding", "position"]
PADDING_RULES: tuple[PaddingRule, ...] = ("padding", "position")
"""Whose attention a target's padding keeps: that of the source's padding, or, as Prompt-to-Prompt's code has it, that of
whatever the source has at the same position. They differ where the source is the longer prompt."""


@dataclass(frozen=True)
class EditSettings:
    """How a pair is edited; the defaults are PIE-Bench's.

    ``guidance``, ``guidance_scale``: see ``fpcore.editing.guidance``. ``tokens``, ``padding``, ``amplify``, ``reweight``: see
    ``fpcore.editing.token_alignment``. The fields of ``SHARED`` must agree for all pairs of a batch, the others may differ.
    """

    guidance: GuidanceMode = "none"
    guidance_scale: float = 7.5
    tokens: TokenMode = "refine"
    padding: PaddingRule = "padding"
    cross_replace: float = 0.4  # share of the steps, from the first on
    self_replace: float = 0.6
    self_tokens: int = 32**2  # self-attention is replaced on grids of at most so many positions
    blend_start: float = 0.2  # share of the steps without local blending
    blend_threshold: float = 0.3  # of the attention map's maximum
    amplify: float = 2.0  # re-weighting of the target's blend word
    reweight: tuple[tuple[str, float], ...] = ()  # of other words of the target
    record_maps: bool = False

    def __post_init__(self) -> None:
        if self.guidance not in GUIDANCE_MODES or self.tokens not in TOKEN_MODES:
            raise ValueError(
                f"guidance must be one of {', '.join(GUIDANCE_MODES)} and tokens one of {', '.join(TOKEN_MODES)}, "
                f"not {self.guidance!r} and {self.tokens!r}"
            )
        if self.padding not in PADDING_RULES:
            raise ValueError(f"padding must be one of {', '.join(PADDING_RULES)}, not {self.padding!r}")
        for name in ("cross_replace", "self_replace", "blend_start", "blend_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must lie between 0 and 1, not {getattr(self, name)}")


SHARED = ("guidance", "guidance_scale", "self_tokens", "record_maps")


def per_pair(settings: EditSettings | Sequence[EditSettings], pairs: int) -> list[EditSettings]:
    """The settings of each pair. Raises ValueError where there are not as many, or what pairs must share differs."""
    each = [settings] * pairs if isinstance(settings, EditSettings) else list(settings)
    if len(each) != pairs:
        raise ValueError(f"there are settings for {len(each)} pairs, not for {pairs}")
    for name in SHARED:
        if len({getattr(s, name) for s in each}) > 1:
            raise ValueError(
                f"{name} must be the same for all pairs of a batch: edit the others in a batch of their own"
            )
    return each
