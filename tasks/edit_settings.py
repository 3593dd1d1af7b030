"""The settings of an edit as a run or a manifest gives them: the run's for all photos, a manifest's for one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fpcore.editing.settings import EditSettings
from tasks.config import RunConfig

SHARES = ("cross_replace", "self_replace", "blend_start", "blend_threshold", "amplify")
OPTIONS = ("tokens", "padding", "reweight", *SHARES)
"""Settings that may differ from photo to photo: columns of a manifest and fields of ``RunConfig``."""


def read_weights(text: str) -> tuple[tuple[str, float], ...]:
    """Words and their weights from ``snow=2, sky=0.5``. Raises ValueError for anything else."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    try:
        return tuple((word.strip(), float(weight)) for word, _, weight in pairs)
    except ValueError:
        raise ValueError(f"reweight takes words and weights such as 'snow=2, sky=0.5', not {text!r}") from None


def own_options(line: Mapping[str, Any]) -> str | None:
    """What a manifest's line says of its photo's edit, checked, as a JSON object; None if nothing.

    Raises ValueError for a value that cannot be.
    """
    given = {name: line[name] for name in OPTIONS if name in line}
    given |= {name: _number(name, given[name]) for name in SHARES if name in given}
    if isinstance(given.get("reweight"), Mapping):
        given["reweight"] = ", ".join(f"{word}={weight}" for word, weight in given["reweight"].items())
    _settings(given)
    return json.dumps(given, sort_keys=True) if given else None


def edit_settings(config: RunConfig, own: str | None = None) -> EditSettings:
    """The settings of one photo: the run's, and before them the photo's own (JSON as ``own_options`` makes it)."""
    options = {name: getattr(config, name) for name in OPTIONS} | (json.loads(own) if own else {})
    return _settings(
        options,
        guidance=config.guidance,
        guidance_scale=config.guidance_scale,
        record_maps=config.attention_maps,
    )


def described(settings: EditSettings, blend_words: tuple[str, str] | None) -> str:
    """The settings as the JSON object that a row keeps."""
    return json.dumps({**asdict(settings), "blended_word": blend_words and " ".join(blend_words)}, sort_keys=True)


def blend_pair(text: str | None) -> tuple[str, str] | None:
    """The word of the source prompt and the word of the target prompt. Raises ValueError for another number of words."""
    words = (text or "").split()
    if len(words) not in (0, 2):
        raise ValueError(f"blended_word is a word of the source prompt and a word of the target prompt, not {text!r}")
    return (words[0], words[1]) if words else None


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None


def _settings(options: Mapping[str, Any], **shared: Any) -> EditSettings:
    return EditSettings(**{**options, "reweight": read_weights(options.get("reweight", ""))}, **shared)
