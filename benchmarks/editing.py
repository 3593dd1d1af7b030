"""Inversion methods × guidance modes on captioned photographs, with the built-in model: the study of docs/EDITING.md.

    python -m benchmarks.editing --photos SCENES --save rows.jsonl --document docs/EDITING.md --figures docs/figures
    python -m benchmarks.editing --save rows.jsonl                    # the table once more, from what was saved

The first writes the table into the document and the sheets, of free and generated pictures, into the folder.

SCENES holds a folder of photographs for each class of ``EDITS``. Every photograph is inverted under its class's caption,
by each method, and edited to the caption of another class under each guidance mode. Whether an edit arrived is judged by
a classifier that knows nothing of the model: logistic regression on colours and gradients of the other photographs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.builtin.photographs import SUFFIXES
from fpcore.editing.edit import EditResult, edit
from fpcore.editing.settings import GUIDANCE_MODES, PADDING_RULES, EditSettings, GuidanceMode, PaddingRule
from fpcore.evaluation.metrics import psnr, structure_distance
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.methods import MethodName, method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.load import load_model
from fpcore.models.model import Model
from tasks.evaluation.contact_sheet import SheetRow, edit_sheet
from tasks.shard.attention_pictures import attention_picture

METHODS = get_args(MethodName)
TOLERANCE = 2.2e-3
EDITS = {
    "desert": "ocean",
    "ocean": "desert",
    "mountain": "desert",
    "garden": "desert",
    "sky": "mountain",
    "campus": "ocean",
    "football_field": "desert",
    "bamboo_forest": "ocean",
}
"""Class of the photograph and class of the edit."""
NAMES = {"ddim": "P2P", "intra-path": "intra-path", "inter-path": "inter-path", "certified": "certified"}


BEGIN, END = "<!-- study -->", "<!-- end of study -->"


def caption(kind: str) -> str:
    """As the photographs of the class are captioned."""
    words = kind.replace("_", " ")
    return f"a photo of {'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Setting:
    """What all cells of the study share: pictures (M, 3, H, W) in [-1, 1] and their prompts."""

    model: Model
    schedule: Schedule
    pixels: Tensor
    sources: list[str]
    targets: list[str]

    def inverted(self, name: str) -> Inversion:
        """The pictures' inversion under their own captions, with the path the guidance modes need."""
        condition = self.model.embed(self.sources)

        def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
            return self.model.predict(z, t, condition.rows(image))

        chosen, z0 = method(name, tolerance=TOLERANCE), self.model.encode(self.pixels)
        return invert(predict, self.schedule, z0, chosen, batch_size=len(z0), keep_trajectory=True)

    def edited(self, found: Inversion, mode: GuidanceMode, scale: float, **options: Any) -> EditResult:
        """Every picture edited to its target."""
        settings = EditSettings(mode, scale, **options)
        return edit(
            self.model, self.schedule, found.latents, self.sources, self.targets, settings, trajectory=found.trajectory
        )

    def pictures(self, z: Tensor) -> Tensor:
        """(M, 3, H, W) in [0, 1]."""
        return (self.model.decode(z).clamp(-1, 1) + 1) / 2


# The table

Judge = Callable[[Tensor], np.ndarray]


def study(
    setting: Setting,
    judge: Judge,
    kinds: list[str],
    methods: list[str],
    modes: list[GuidanceMode],
    scale: float,
    padding: PaddingRule,
) -> Iterator[dict[str, Any]]:
    """A row for each method and guidance mode."""
    photographs = (setting.pixels + 1) / 2
    for name in methods:
        began = time.perf_counter()
        found = setting.inverted(name)
        inverting = time.perf_counter() - began
        for mode in modes:
            began = time.perf_counter()
            result = setting.edited(found, mode, scale, padding=padding)
            seconds = inverting + time.perf_counter() - began
            source, target = setting.pictures(result.source), setting.pictures(result.target)
            kept = psnr(source, photographs).clamp(max=100)
            chances = judge(target)
            arrived = [c[EDITS[kind]] > c[kind] for c, kind in zip(chances, kinds, strict=True)]
            yield {
                "method": name,
                "guidance": mode,
                "photographs": len(kinds),
                "psnr_source": float(kept.mean()),
                "psnr_source_min": float(kept.min()),
                "psnr_edit": float(psnr(target, photographs).mean()),
                "structure": 1e3 * float(structure_distance(target, photographs).mean()),
                "arrived": int(sum(arrived)),
                "finite": int(result.finite.sum()),
                "nfe_inversion": float(np.mean(found.nfe)),
                "nfe": float(np.mean(found.nfe) + result.nfe.float().mean()),
                "seconds": seconds / len(kinds),
            }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = (
        "inversion | guidance | source branch, PSNR | worst | edit to photo, PSNR | structure ×10³ | arrived | "
        "evaluations, inversion | all | seconds"
    )
    lines = [f"| {heads} |", "|" + "---|" * 10]
    for r in rows:
        exact = "exact" if r["psnr_source"] >= 100 else f"{r['psnr_source']:.1f}"
        worst = "exact" if r["psnr_source_min"] >= 100 else f"{r['psnr_source_min']:.1f}"
        lines.append(
            f"| {r['method']} | {r['guidance']} | {exact} | {worst} | {r['psnr_edit']:.1f} | {r['structure']:.1f} | "
            f"{r['arrived']} of {r['photographs']} | {r['nfe_inversion']:.0f} | {r['nfe']:.0f} | {r['seconds']:.1f} |"
        )
    return "\n".join(lines)


# Photographs, and who judges the edits


def read(path: Path, side: int) -> np.ndarray:
    """(side, side, 3) uint8, squeezed by area as the model sees photographs."""
    image = Image.open(path).convert("RGB")
    image.draft("RGB", (4 * side, 4 * side))
    return np.array(image.resize((side, side), Image.Resampling.BOX))


def to_model(pictures: list[np.ndarray]) -> Tensor:
    """(M, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def features(picture: np.ndarray) -> np.ndarray:
    """Colours of 8 × 8 fields and histograms of gradients, of (64, 64, 3) uint8."""
    colours = np.array(Image.fromarray(picture).resize((8, 8), Image.Resampling.BOX)).ravel() / 255
    return np.concatenate([colours, hog(picture, 8, (16, 16), (2, 2), channel_axis=-1)])


def train_judge(folders: dict[str, list[Path]], side: int) -> tuple[Judge, float]:
    """Chances of each class by name for pictures (M, 3, H, W) in [0, 1], and the accuracy on photographs left out."""
    seen = [(features(read(path, side)), kind) for kind, paths in folders.items() for path in paths]
    x, y = np.stack([f for f, _ in seen]), np.array([kind for _, kind in seen])
    split = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    machine = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.02, class_weight="balanced"))
    machine.fit(split[0], split[2])

    def judge(pictures: Tensor) -> np.ndarray:
        pixels = (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        chances = machine.predict_proba(np.stack([features(p) for p in pixels]))
        return np.array([dict(zip(machine.classes_, c, strict=True)) for c in chances])

    return judge, float(machine.score(split[1], split[3]))


def photographs(
    folder: Path, kinds: list[str], count: int, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """``count`` photographs drawn evenly from the classes ``kinds``, and all the others of all classes, both by class."""
    rng, drawn, others = np.random.default_rng(seed), {}, {}
    for kind in EDITS:
        paths = sorted(p for p in (folder / kind).iterdir() if p.suffix.lower() in SUFFIXES)
        order = rng.permutation(len(paths))
        n = kinds.index(kind) if kind in kinds else None
        share = 0 if n is None else count // len(kinds) + (n < count % len(kinds))
        drawn[kind], others[kind] = [paths[i] for i in order[:share]], [paths[i] for i in order[share:]]
    return drawn, others


def run_study(model: Model, chosen: argparse.Namespace) -> None:
    """Measure, print and append to a file of JSON lines."""
    drawn, others = photographs(chosen.photos, chosen.kinds, chosen.count, chosen.seed)
    side = model.image_size[0]
    judge, accuracy = train_judge(others, side)
    kinds = [kind for kind, paths in drawn.items() for _ in paths]
    pixels = to_model([read(path, side) for paths in drawn.values() for path in paths])
    before = judge((pixels + 1) / 2)
    fooled = int(sum(c[EDITS[kind]] > c[kind] for c, kind in zip(before, kinds, strict=True)))
    print(
        f"judge: {accuracy:.1%} of the photographs left out; {fooled} of {len(kinds)} arrive before any edit",
        flush=True,
    )
    schedule = Schedule.from_scheduler(model.scheduler, chosen.steps)
    setting = Setting(model, schedule, pixels, [caption(k) for k in kinds], [caption(EDITS[k]) for k in kinds])
    shared = {
        "digest": model.digest[:12],
        "steps": chosen.steps,
        "scale": chosen.scale,
        "judge": accuracy,
        "before": fooled,
    }
    for row in study(setting, judge, kinds, chosen.only, chosen.modes, chosen.scale, chosen.padding):
        print(json.dumps(row), flush=True)
        with chosen.save.open("a") as lines:
            lines.write(json.dumps({**shared, **row}) + "\n")


def write_table(document: Path, rows: list[dict[str, Any]]) -> None:
    """Put the table, and what it was measured with, between the document's marks."""
    text, facts = document.read_text(), rows[0]
    head, rest = text.split(BEGIN)
    told = (
        f"{facts['photographs']} photographs, {facts['steps']} steps, w {facts['scale']:g}, tolerance {TOLERANCE:g}, model "
        f"`{facts['digest']}`. The judge is right on {facts['judge']:.0%} of the photographs left out and calls "
        f"{facts['before']} of the {facts['photographs']} arrived before any edit."
    )
    document.write_text(f"{head}{BEGIN}\n{told}\n\n{table(rows)}\n{END}{rest.split(END)[1]}")


# The sheets


def free_pictures(model: Model, schedule: Schedule) -> Setting:
    """Photographs of scikit-image and scikit-learn under simple captions, and pictures of the model's own."""
    photos, side = dict(clear_photographs()), model.image_size[0]
    sky = photos["china"][:200]
    given = [(photos["china"], "campus", "desert"), (photos["flower"], "garden", "desert")]
    given += [(photos["rocket"], "sky", "ocean"), (sky, "sky", "mountain")]
    kinds = ["desert", "ocean", "mountain", "garden", "football_field"]
    made = [(kind, EDITS[kind]) for kind in kinds]
    squeezed = [np.array(Image.fromarray(p).resize((side, side), Image.Resampling.BOX)) for p, _, _ in given]
    pairs = [(source, target) for _, source, target in given] + made
    pixels = torch.cat([to_model(squeezed), generated(model, [caption(kind) for kind in kinds])])
    return Setting(model, schedule, pixels, [caption(s) for s, _ in pairs], [caption(t) for _, t in pairs])


def generated(model: Model, prompts: list[str], scale: float = 3.0, steps: int = 25) -> Tensor:
    """(M, 3, H, W) in [-1, 1] from seeded noise, guided by ``scale``."""
    condition, null = model.embed(prompts), model.embed([""])
    noise = torch.randn(
        len(prompts), *model.latent_shape(*model.image_size), generator=torch.Generator().manual_seed(3)
    )

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        free = model.predict(z, t, null.repeat(len(z)))
        return free + scale * (model.predict(z, t, condition.rows(image)) - free)

    made = model.decode(sample(predict, Schedule.from_scheduler(model.scheduler, steps), noise)).clamp(-1, 1)
    return ((made + 1) * 127.5).round() / 127.5 - 1


def to_images(pictures: Tensor) -> list[Image.Image]:
    """(M, 3, H, W) in [0, 1] as 8-bit pictures."""
    return [Image.fromarray(p) for p in (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()]


def draw_figures(model: Model, folder: Path, steps: int, scale: float) -> None:
    """editing.jpg: methods side by side; guidance.jpg: guidance modes; attention.png: what the words attend to."""
    setting = free_pictures(model, Schedule.from_scheduler(model.scheduler, steps))
    found = {name: setting.inverted(name) for name in NAMES}
    photos = to_images((setting.pixels + 1) / 2)
    by_method = [to_images(setting.pictures(setting.edited(found[m], "none", scale).target)) for m in NAMES]
    _save(setting, ["source", *NAMES.values()], [photos, *by_method], folder / "editing.jpg")
    modes = {mode: setting.edited(found["certified"], mode, scale, record_maps=True) for mode in GUIDANCE_MODES}
    columns = [to_images(setting.pictures(r.target)) for r in modes.values()]
    rebuilt = to_images(setting.pictures(modes["none"].source))
    _save(
        setting,
        ["source", "none: its source branch", *GUIDANCE_MODES],
        [photos, rebuilt, *columns],
        folder / "guidance.jpg",
    )
    maps, last = modes["direct-inversion"], 4  # the first picture of the model's own
    assert maps.source_maps is not None
    assert maps.target_maps is not None
    prompts, pair = (setting.sources[last], setting.targets[last]), (maps.source_maps[last], maps.target_maps[last])
    (folder / "attention.png").write_bytes(attention_picture(model, prompts, pair))


def _save(setting: Setting, heads: list[str], columns: list[list[Image.Image]], file: Path) -> None:
    pictures = zip(*columns, strict=True)
    rows = [SheetRow(p, s, t) for p, s, t in zip(pictures, setting.sources, setting.targets, strict=True)]
    edit_sheet(heads, rows, tile=144).save(file, quality=88)


def main() -> None:
    """The study, its table from a file, or the sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:scenes")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--scale", type=float, default=3.0, help="guidance weight w")
    parser.add_argument("--only", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--modes", nargs="*", choices=GUIDANCE_MODES, default=list(GUIDANCE_MODES))
    parser.add_argument("--kinds", nargs="*", choices=EDITS, default=list(EDITS), help="classes that are drawn from")
    parser.add_argument("--padding", choices=PADDING_RULES, default="padding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, required=True, help="rows are appended here; the table shows all of them")
    parser.add_argument("--document", type=Path, help="put the table between the marks of this file")
    chosen = parser.parse_args()
    model = load_model(chosen.model)
    if chosen.photos:
        run_study(model, chosen)
    rows = [json.loads(line) for line in chosen.save.read_text().splitlines()]
    rows.sort(key=lambda row: (METHODS.index(row["method"]), GUIDANCE_MODES.index(row["guidance"])))
    print(table(rows))
    if chosen.document:
        write_table(chosen.document, rows)
    if chosen.figures:
        draw_figures(model, chosen.figures, chosen.steps, chosen.scale)


if __name__ == "__main__":
    main()
