"""JSON as tools write it: a list, one object a line, columns, lists within an object, PIE-Bench's mapping file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tasks.photos.manifest_rows import Broken, Row, brief, column_name

PIE_BENCH_SEED = 1234  # the benchmark's, of every image


def read_json(text: str, wanted: frozenset[str]) -> Iterator[Row | Broken]:
    """The lines of JSON in any of these forms. Raises ValueError if it is none of them."""
    if text.lstrip()[:1] == "[":
        values = _parsed(text)
        paths = all(isinstance(value, str) for value in values)
        yield from _objects([{"path": value} for value in values] if paths else values)
        return
    lines = [stripped.rstrip(",") for line in text.split("\n") if (stripped := line.strip())]
    if len(lines) > 1 and any(map(_is_object, lines[:20])):
        for line in lines:
            yield from _line(line)
        return
    objects = list(_values(text))
    if len(objects) > 1:
        yield from _objects(objects)
    else:
        yield from _one(objects[0], wanted)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({brief(error)})") from None


def _line(line: str) -> Iterator[Row | Broken]:
    try:
        yield from _objects([_parsed(line)])
    except ValueError as error:
        yield Broken(str(error))


def _is_object(line: str) -> bool:
    try:
        return isinstance(_parsed(line), dict)
    except ValueError:
        return False


def _values(text: str) -> Iterator[Any]:
    """Values that follow each other, with commas or without."""
    decoder, at = json.JSONDecoder(), 0
    while rest := text[at:].lstrip(" \t\r\n,"):
        at = len(text) - len(rest)
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON ({brief(error)})") from None
        yield value


def _objects(values: list[Any]) -> Iterator[Row | Broken]:
    for value in values:
        if isinstance(value, dict):
            yield {column_name(name): one for name, one in value.items()}
        else:
            yield Broken(f"it is no JSON object but {type(value).__name__}")


def _one(value: dict[str, Any], wanted: frozenset[str]) -> Iterator[Row | Broken]:
    """One object: a line, columns as pandas writes them, a list with a head, or PIE-Bench's mapping file."""
    known = {name: one for name, one in value.items() if column_name(name) in wanted}
    kinds = {type(one) for one in known.values()}
    if {"columns", "data"} <= value.keys():  # pandas, orient="split"
        yield from _objects([dict(zip(value["columns"], row, strict=False)) for row in value["data"]])
    elif kinds == {list}:
        yield from _objects([dict(zip(known, row, strict=False)) for row in zip(*known.values(), strict=False)])
    elif kinds == {dict} and not any("path" in one for one in known.values()):  # pandas, orient="columns"
        numbers = next(iter(known.values()))
        yield from _objects([{name: column.get(number) for name, column in known.items()} for number in numbers])
    elif known:
        yield from _objects([value])
    elif value and all(isinstance(one, dict) for one in value.values()):
        yield from _pie_bench(value)
    elif lists := _lists_of_objects(value):
        yield from _objects(lists.get("images") or next(iter(lists.values())))
    else:
        raise ValueError("it is one JSON object that names no photo: write a list of objects, or one a line")


def _lists_of_objects(value: dict[str, Any]) -> dict[str, list[Any]]:
    """Lists within an object, as COCO has them."""
    return {name: one for name, one in value.items() if isinstance(one, list) and one and isinstance(one[0], dict)}


def _pie_bench(mapping: dict[str, Any]) -> Iterator[Row | Broken]:
    """PIE-Bench's mapping_file.json: brackets mark the difference between the prompts and are stripped."""
    for entry in mapping.values():
        prompts = {
            name: str(entry[name]).replace("[", "").replace("]", "")
            for name in ("original_prompt", "editing_prompt")
            if entry.get(name) is not None
        }
        path = entry.get("image_path")
        yield {
            **prompts,
            "path": path and f"annotation_images/{path}",
            "key": path,
            "blended_word": entry.get("blended_word") or None,
            "mask": entry.get("mask"),
            "editing_type": str(entry.get("editing_type_id", "")) or None,
            "seed": PIE_BENCH_SEED,
        }
