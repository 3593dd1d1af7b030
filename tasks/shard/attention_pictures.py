"""What each word of two prompts attends to, as one labelled picture."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fpcore.editing.token_alignment import word_tokens
from fpcore.models.model import Model

TILE, LABEL = 128, 18


def attention_picture(model: Model, prompts: tuple[str, str], maps: tuple[Tensor, Tensor]) -> bytes:
    """PNG: a row of heat maps for each prompt, one a word in reading order, the word above and its peak beside it.

    ``maps``: per prompt (L, h, w), each token's share of the attention. A word of several tokens shows their sum. Every
    map is stretched to its own peak, because most of the attention goes to the begin mark, which is no word.
    """
    rows = [_word_maps(model, prompt, heat) for prompt, heat in zip(prompts, maps, strict=True)]
    width = max(1, *(len(row) for row in rows)) * TILE
    canvas = Image.new("RGB", (width, len(rows) * (TILE + LABEL)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for line, row in enumerate(rows):
        for column, (word, heat) in enumerate(row):
            x, y = column * TILE, line * (TILE + LABEL)
            draw.text((x + 3, y + 2), f"{word} {heat.max():.2f}", fill="black", font=font)
            canvas.paste(_heat(heat), (x, y + LABEL))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _word_maps(model: Model, prompt: str, maps: Tensor) -> list[tuple[str, np.ndarray]]:
    positions = word_tokens(model.tokenizers[0], prompt, model.prompt_length())
    heats = ((word, maps[p].sum(0).cpu().numpy()) for word, p in zip(prompt.split(), positions, strict=True) if p)
    return list(heats)


def _heat(heat: np.ndarray) -> Image.Image:
    """(h, w) as a square tile in colour, dark where there is least."""
    colours = matplotlib.colormaps["magma"](heat / max(float(heat.max()), 1e-12), bytes=True)[..., :3]
    return Image.fromarray(colours).resize((TILE - 2, TILE - 2), Image.Resampling.BICUBIC)
