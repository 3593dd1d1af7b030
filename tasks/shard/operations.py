"""What a run does to a group of pictures at model size: the bridge from a configuration to fpcore."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fpcore.dehazing.dehaze import DehazeSettings, Stopwatch, dehaze
from fpcore.dehazing.quality_gate import judge, measure
from fpcore.editing.edit import EditResult, edit, pair_maps
from fpcore.editing.prompt_to_prompt import EditSettings
from fpcore.evaluation.dark_channel import dehaze as dark_channel_dehaze
from fpcore.evaluation.metrics import psnr, structure_distance
from fpcore.inversion.belm import invert_exactly, sample_exactly
from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Cancelled, Inversion, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.records import Recorder
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.edit_settings import described
from tasks.photos.decode import Pixels
from tasks.shard.attention_pictures import attention_picture

Stop = Callable[[], bool] | None


@dataclass(frozen=True)
class Outcome:
    """What one picture of the group became: ``source`` and ``result`` (3, H, W) in [0, 1], and columns of its row.

    ``publish``: "render" transfers the change to the photo at its own resolution (a change of colour and light),
    "model-size" publishes the result as it is (changed content), "nothing" publishes no picture.
    """

    source: Tensor
    result: Tensor
    strength: float
    columns: dict[str, Any]
    error: tuple[str, str] | None = None
    publish: Literal["render", "model-size", "nothing"] = "render"


@dataclass(frozen=True)
class EditRequests:
    """What each of M photos is to become: prompts (the manifest's or the run's), blend words, seeds, and the settings
    of its edit. ``regions`` (M, 1, H, W): 1 at the pixels that may change; None for all of all photos."""

    prompts: list[str]
    targets: list[str | None]
    blend_words: list[tuple[str, str] | None]
    seeds: list[int]
    edits: list[EditSettings]
    regions: Tensor | None = None

    def of(self, rows: Sequence[int]) -> EditRequests:
        """Those of some photos."""
        lists = {f.name: [getattr(self, f.name)[i] for i in rows] for f in fields(self) if f.name != "regions"}
        return EditRequests(**lists, regions=None if self.regions is None else self.regions[list(rows)])


def inversion_method(config: RunConfig) -> Method:
    """The inversion method of a configuration. Raises ValueError for options that do not fit together."""
    return method(
        config.method,
        tolerance=config.tolerance,
        iterations=config.iterations,
        guess=config.guess,
        damping=config.damping,
        anderson=config.anderson,
    )


def png(picture: Tensor) -> bytes:
    """(3, H, W) or (H, W) in [0, 1] as PNG bytes."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1)).save(buffer, "PNG")
    return buffer.getvalue()


def step_rows(inversion: Inversion, schedule: Schedule, image: int) -> list[dict[str, Any]]:
    """The ``steps`` column of one image."""
    r = inversion.records.of_image(image)
    timesteps = schedule.timesteps.numpy()[r.step]
    columns = {
        "step": r.step,
        "timestep": timesteps,
        "iteration": r.iteration,
        "intra": r.intra,
        "bound": r.bound,
        "rate": r.rate,
    }
    lists = {name: values.tolist() for name, values in columns.items()}
    lists["inter"] = [None if np.isnan(x) else x for x in r.inter.tolist()]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def run_dehaze(
    model: Model, config: RunConfig, pixels: Tensor, darkest: Tensor, prior: Tensor | None, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Dehaze (M, 3, H, W) in [0, 1]; outcomes in order, and seconds by stage.

    ``darkest`` (M,): of the photographs at full resolution (``fpcore.dehazing.haze_density.darkest_value``).
    ``prior`` (M, 1, H, W) in [0, 1]: depth maps for ``prior-weighted``; None = the dark channel.
    """
    settings = DehazeSettings(
        variant=config.dehaze_variant,  # type: ignore[arg-type]
        method=inversion_method(config),
        num_inference_steps=config.num_inference_steps,
        prompt=config.prompt,
        target_prompt=config.target_prompt,
        guidance_scale=config.guidance_scale,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    dehazed = dehaze(model, pixels, settings, darkest=darkest, prior=prior, should_stop=should_stop)
    schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
    verdicts = judge(pixels, dehazed.result, dehazed.seen, darkest)
    outcomes = []
    for i, verdict in enumerate(verdicts):
        metrics = {"haze_amount": float(dehazed.amount[i]), **verdict.measures}
        columns = {
            **_inversion_columns(config, schedule, dehazed.inversion, i),
            "verdict": verdict.name,
            "prompt": dehazed.prompts[0],
            "target_prompt": dehazed.prompts[1],
            "haze_map": {"bytes": png(dehazed.haze_map[i]), "path": None},
            "nfe": dehazed.nfe[i],
            "metrics": {name: value for name, value in metrics.items() if np.isfinite(value)},
            "batch_size": dehazed.rows or config.batch_size,
        }
        strength = verdict.strength * config.strength
        outcomes.append(
            _outcome(dehazed.inversion.status[i], pixels[i], dehazed.result[i], strength, columns, "render")
        )
    return outcomes, dehazed.seconds


def _inversion_columns(config: RunConfig, schedule: Schedule, inversion: Inversion, i: int) -> dict[str, Any]:
    """The columns every inversion fills."""
    return {
        "latent": inversion.latents[i].cpu() if config.save_latents else None,
        "inversion_status": inversion.status[i].label,
        "steps": step_rows(inversion, schedule, i) if config.save_steps else None,
        "nfe_inversion": inversion.nfe[i],
    }


def _outcome(
    status: Status, source: Tensor, result: Tensor, strength: float, columns: dict[str, Any], publish: Any
) -> Outcome:
    """An outcome, or its failure where the numbers are none."""
    if status == Status.NONFINITE or not bool(result.isfinite().all()):
        columns |= {"latent": None, "haze_map": None}
        message = "The model returned values that are not numbers for this photo. Try --set torch_dtype=float32."
        return Outcome(source, source, 0.0, columns, ("non-finite", message), publish)
    columns["output"] = {"bytes": png(result), "path": None}
    return Outcome(source, result, strength, columns, None, publish)


def run_invert(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Invert (M, 3, H, W) in [0, 1] under each photo's prompt, and regenerate it as a proof.

    Of the sampler o-belm's pair of latents the last one is kept.
    """
    watch = Stopwatch()
    schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
    latents, condition = model.encode(pixels * 2 - 1), model.embed(requests.prompts)
    watch("encode")
    predict = OOMBackoff(lambda z, t, image: model.predict(z, t, condition.rows(image)))
    if config.sampler == "o-belm":
        pair = invert_exactly(predict, schedule, latents, batch_size=config.batch_size)
        inversion, evaluations = _exact_inversion(pair.last, len(schedule)), len(schedule) - 1
        watch("invert")
        back = sample_exactly(predict, schedule, pair.last, pair.before, batch_size=config.batch_size)
    else:
        inversion = _invert(predict, model, config, schedule, latents, requests, should_stop, trajectory=False)
        evaluations = len(schedule)
        watch("invert")
        back = sample(predict, schedule, inversion.latents, batch_size=config.batch_size, should_stop=should_stop)
    watch("sample")
    result = (model.decode(back).cpu() + 1) / 2
    watch("decode")
    trip = psnr(result.clamp(0, 1), pixels.cpu())
    outcomes = []
    for i in range(len(pixels)):
        columns = {
            **_inversion_columns(config, schedule, inversion, i),
            "prompt": requests.prompts[i],
            "target_prompt": requests.prompts[i],
            "nfe": inversion.nfe[i] + evaluations,
            "metrics": {"psnr_round_trip": float(trip[i])},
            "batch_size": predict.rows or config.batch_size,
        }
        outcomes.append(_outcome(inversion.status[i], pixels[i], result[i], 1.0, columns, "nothing"))
    return outcomes, watch.seconds


def _exact_inversion(latents: Tensor, steps: int) -> Inversion:
    """An inversion that solved no fixed point: nothing to judge, nothing to record."""
    finite = latents.flatten(1).isfinite().all(1).tolist()
    status = [Status.COMPLETED if fine else Status.NONFINITE for fine in finite]
    return Inversion(latents, status, [steps] * len(latents), Recorder().finish())


def run_edit(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Prompt-to-Prompt from each photo's source prompt to its target prompt, under the run's guidance mode.

    A photo whose prompts or words do not fit fails alone, before anything is evaluated for it.
    """
    refused = [_refusal(model, requests, i) for i in range(len(pixels))]
    able = [i for i, reason in enumerate(refused) if reason is None]
    done, seconds = _edit(model, config, pixels[able], requests.of(able), should_stop) if able else ([], {})
    outcomes = iter(done)
    return [
        next(outcomes) if reason is None else Outcome(pixels[i], pixels[i], 0.0, {}, ("unfit-prompts", reason))
        for i, reason in enumerate(refused)
    ], seconds


def _refusal(model: Model, requests: EditRequests, i: int) -> str | None:
    """Why photo ``i`` cannot be edited, as a sentence."""
    target = requests.targets[i]
    if target is None:
        return "Nothing says what the photo is to show: give --target, or a column target_prompt in the manifest."
    try:
        pair_maps(model, [requests.prompts[i]], [target], requests.edits[i], [requests.blend_words[i]])
    except ValueError as error:
        return f"The edit does not fit its prompts: {error}."
    return None


def _edit(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    watch = Stopwatch()
    schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
    latents, condition = model.encode(pixels * 2 - 1), model.embed(requests.prompts)
    watch("encode")
    predict = OOMBackoff(lambda z, t, image: model.predict(z, t, condition.rows(image)))
    needs_path = config.guidance in ("nti", "direct-inversion")
    inversion = _invert(predict, model, config, schedule, latents, requests, should_stop, trajectory=needs_path)
    watch("invert")
    edited = _edit_pairs(model, schedule, inversion, requests, predict.rows or config.batch_size, should_stop)
    watch("sample")
    result, source = ((model.decode(z).cpu() + 1) / 2 for z in (edited.target, edited.source))
    watch("decode")
    moved = structure_distance(result.clamp(0, 1), pixels.cpu())
    kept = psnr(source.clamp(0, 1), pixels.cpu())
    outcomes = []
    for i in range(len(pixels)):
        columns = {
            **_inversion_columns(config, schedule, inversion, i),
            "prompt": requests.prompts[i],
            "target_prompt": requests.targets[i],
            "edit_settings": described(requests.edits[i], requests.blend_words[i]),
            "nfe": inversion.nfe[i] + int(edited.nfe[i]),
            "metrics": {"structure_distance": float(moved[i]), "psnr_reconstruction": float(kept[i])},
            "batch_size": predict.rows or config.batch_size,
        }
        if bool(source[i].isfinite().all()):
            columns["reconstruction"] = {"bytes": png(source[i]), "path": None}
        if edited.source_maps is not None and edited.target_maps is not None:
            prompts = (requests.prompts[i], requests.targets[i] or "")
            picture = attention_picture(model, prompts, (edited.source_maps[i], edited.target_maps[i]))
            columns["attention_map"] = {"bytes": picture, "path": None}
        outcomes.append(_outcome(inversion.status[i], pixels[i], result[i], 1.0, columns, "model-size"))
    return outcomes, watch.seconds


def _edit_pairs(
    model: Model, schedule: Schedule, inversion: Inversion, requests: EditRequests, size: int, should_stop: Stop
) -> EditResult:
    """Edit all pairs, ``size`` at a time; half as many once the device has run out of memory."""
    parts: list[EditResult] = []
    start, count = 0, len(inversion.latents)
    while start < count:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped between two batches")
        rows = range(start, min(start + size, count))
        try:
            parts.append(_edit_rows(model, schedule, inversion, requests.of(rows), list(rows)))
            start = rows.stop
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
    return EditResult.cat(parts)


def _edit_rows(
    model: Model, schedule: Schedule, inversion: Inversion, requests: EditRequests, rows: list[int]
) -> EditResult:
    latents, path = inversion.latents[rows], inversion.trajectory
    regions = None
    if requests.regions is not None:
        regions = F.adaptive_max_pool2d(requests.regions, latents.shape[-2:]).to(latents.device) > 0
    return edit(
        model, schedule, latents, requests.prompts, [target or "" for target in requests.targets], requests.edits,
        blend_words=requests.blend_words, regions=regions, trajectory=None if path is None else path[rows],
    )  # fmt: skip


def _invert(
    predict: OOMBackoff,
    model: Model,
    config: RunConfig,
    schedule: Schedule,
    latents: Tensor,
    requests: EditRequests,
    should_stop: Stop,
    *,
    trajectory: bool,
) -> Inversion:
    return invert(
        predict, schedule, latents, inversion_method(config), batch_size=config.batch_size, seeds=requests.seeds,
        keep_trajectory=trajectory, should_stop=should_stop,
    )  # fmt: skip


def run_dark_channel(config: RunConfig, pixels: Tensor) -> tuple[list[Outcome], dict[str, float]]:
    """The dark channel prior as a baseline: thumbnails for the row, no model. Full resolution: ``dark_channel_pixels``."""
    result = dark_channel_dehaze(pixels, patch=3, radius=8)
    veil = (pixels - result.image).mean(1).clamp(0, 1)
    measures = measure(pixels, result.image)
    shared = {"verdict": "improved", "nfe": 0, "nfe_inversion": 0, "batch_size": config.batch_size}
    outcomes = []
    for i in range(len(pixels)):
        pictures = {
            "output": {"bytes": png(result.image[i]), "path": None},
            "haze_map": {"bytes": png(veil[i]), "path": None},
        }
        columns = {**shared, **pictures, "metrics": measures[i]}
        outcomes.append(Outcome(pixels[i], result.image[i], config.strength, columns))
    return outcomes, {}


def dark_channel_pixels(pixels: Pixels, strength: float = 1.0, mask: npt.NDArray[np.float32] | None = None) -> Pixels:
    """(H, W, 3) uint8 or uint16 dehazed by the dark channel prior at its own resolution; the same type comes back.

    ``strength`` and ``mask`` (H, W), in [0, 1], interpolate between the photograph and the result.
    """
    peak = np.iinfo(pixels.dtype).max
    picture = torch.from_numpy(pixels.astype(np.float32) / peak).permute(2, 0, 1)
    clear = dark_channel_dehaze(picture).image[0].permute(1, 2, 0).numpy()
    share = strength if mask is None else strength * mask[..., None]
    rounded: npt.NDArray[np.float32] = (pixels + share * (clear * peak - pixels)).round()
    return rounded.astype(np.uint8) if pixels.dtype == np.uint8 else rounded.astype(np.uint16)


def seed_of(config: RunConfig, image_id: str | None, given: int | None) -> int:
    """The seed of a photo: the manifest's, else the run's seed mixed with the photo's digest (60 bits)."""
    return config.seed ^ int((image_id or "0")[:15], 16) if given is None else given
