"""PIE-Bench's file, masks and measures, each against an independent computation."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.lpips as reference_lpips
import transformers
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from torch import Tensor

from fpcore.builtin.text import build_tokenizer
from fpcore.evaluation.perceptual import (
    ClipScore,
    DinoStructure,
    Judges,
    Lpips,
    Unavailable,
    load_judges,
    squeezenet_features,
)
from fpcore.evaluation.pie_bench import (
    METRICS,
    PUBLISHED,
    Measure,
    PieSample,
    mean,
    means_by_type,
    measure,
    read_mapping,
    through_jpeg,
)
from fpcore.evaluation.rle_masks import decode_mask, encode_mask
from tests.tiny_models import WORDS

NONE = load_judges()
ENTRY = {
    "image_path": "1_change_object_80/1_artificial/1_animal/112000000003.jpg",
    "original_prompt": "a [cat] in the house",
    "editing_prompt": "a [dog] in the house",
    "editing_instruction": "Change the animal from a cat to a dog",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [5 * 512 + 7, 3, 262140, 100],
}


def pictures(seed: int, side: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, (side, side), mode="bicubic").clamp(0, 1)[0]
    return smooth, (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def half(side: int = 48) -> Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[:, : side // 2] = True
    return mask


# The mapping file


def test_mapping_file_is_read_in_order() -> None:
    second = ENTRY | {"blended_word": "", "editing_type_id": 9, "mask": []}
    first, other = read_mapping(json.dumps({"112000000003": ENTRY, "9": second}))
    assert first.id == "112000000003"
    assert first.source_prompt == "a cat in the house"
    assert first.target_prompt == "a dog in the house"
    assert first.blend_words == ("cat", "dog")
    assert first.editing_type == "1"
    assert first.image_path == ENTRY["image_path"]
    assert other.blend_words is None
    assert other.editing_type == "9"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": [1]}, "entry 'k' of the mapping file: a mask is pairs of start and length, not 1 numbers"),
        ({"mask": [512 * 512, 1]}, "lies outside a picture of 512 × 512"),
        ({"mask": [3, -1]}, "lies outside"),
        ({"mask": "none"}, "entry 'k' of the mapping file"),
        ({"blended_word": "cat"}, "needs a word of either prompt, not only 'cat'"),
        ({"original_prompt": None}, "entry 'k' of the mapping file"),
    ],
)
def test_broken_entries_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mapping(json.dumps({"k": ENTRY | change}))


def test_broken_files_are_refused() -> None:
    with pytest.raises(ValueError, match="entry 'k' of the mapping file has no 'mask'"):
        read_mapping(json.dumps({"k": {n: v for n, v in ENTRY.items() if n != "mask"}}))
    with pytest.raises(ValueError, match="is not JSON"):
        read_mapping("{")
    with pytest.raises(ValueError, match="one JSON object"):
        read_mapping("[]")


# Masks


def test_a_mask_by_hand() -> None:
    """6 × 6: runs in rows 1, 2 and 3, one across the end of a row, one past the end of the picture."""
    drawn = [
        "######",
        "#.##.#",
        "#...##",
        "##.#.#",
        "#....#",
        "######",
    ]
    expected = torch.tensor([[c == "#" for c in row] for row in drawn])
    assert torch.equal(decode_mask([8, 2, 16, 4, 21, 1, 35, 9], side=6), expected)


def test_runs_past_the_end_are_cut_off_and_the_border_is_always_set() -> None:
    sample = read_mapping(json.dumps({"k": ENTRY}))[0]
    mask = sample.mask()
    assert mask.shape == (512, 512)
    assert mask.dtype == torch.bool
    inside = mask[1:-1, 1:-1].nonzero() + 1
    assert inside.tolist() == [[5, 7], [5, 8], [5, 9]]
    assert int(decode_mask([]).sum()) == 4 * 511
    assert decode_mask([0, 10**9]).all()


def test_masks_of_pictures_become_runs_and_come_back() -> None:
    drawn = ["#....#", "......", ".##...", "###..#", "#.....", ".....#"]
    mask = torch.tensor([[c == "#" for c in row] for row in drawn])
    assert encode_mask(mask) == [0, 1, 5, 1, 13, 2, 18, 3, 23, 2, 35, 1], "a run may go on in the next row"
    assert torch.equal(decode_mask(encode_mask(mask), side=6, border=False), mask)
    assert encode_mask(torch.zeros(6, 6, dtype=torch.bool)) == []
    assert encode_mask(torch.ones(6, 6, dtype=torch.bool)) == [0, 36]


# Background measures


def test_background_measures_equal_their_formulas() -> None:
    source, edited = pictures(0)
    found = measure(source, edited, half(), "", NONE)
    keep = (~half()).numpy().astype(np.float64)
    x, y = (z.double().numpy() * keep for z in (source, edited))
    mse = ((x - y) ** 2).mean()  # over the full frame: the masked half counts as equal
    assert found["mse_unedit_part"].value == pytest.approx(1e4 * mse, rel=1e-4)
    assert found["psnr_unedit_part"].value == pytest.approx(10 * math.log10(1 / mse), abs=1e-3)
    same = structural_similarity(
        x, y, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert found["ssim_unedit_part"].value == pytest.approx(100 * same, abs=1e-2)


def test_changes_inside_the_mask_do_not_count() -> None:
    source, edited = pictures(0)
    changed = torch.where(half(), edited, source)
    found = measure(source, changed, half(), "", NONE)
    assert found["mse_unedit_part"].value == 0
    assert found["ssim_unedit_part"].value == pytest.approx(100)
    assert found["psnr_unedit_part"].value == math.inf


def test_a_full_mask_is_not_a_number_and_skipped() -> None:
    source, edited = pictures(0)
    full = measure(source, edited, torch.ones(48, 48, dtype=torch.bool), "", NONE)
    for name in ("psnr", "mse", "ssim", "lpips"):
        value = full[f"{name}_unedit_part"].value
        assert value is not None
        assert math.isnan(value)
    part = measure(source, edited, half(), "", NONE)
    averaged = mean(row["mse_unedit_part"] for row in (full, part, full))
    assert averaged.value == part["mse_unedit_part"].value


def test_measures_without_weights_are_unavailable_never_zero() -> None:
    found = measure(*pictures(0), half(), "", NONE)
    assert set(found) == set(METRICS)
    missing = {name for name, m in found.items() if m.value is None}
    assert missing == {n for n in METRICS if n.startswith(("structure", "lpips", "clip"))}
    assert "facebook/dino-vitb8" in found["structure_distance"].reason
    assert "SqueezeNet 1.1" in found["lpips_unedit_part"].reason
    assert "clip-vit-large-patch14" in found["clip_similarity_target_image"].reason
    nothing = mean([found["lpips_unedit_part"]])
    assert nothing.value is None
    assert nothing.reason == found["lpips_unedit_part"].reason


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        measure(*pictures(0), half(40), "", NONE)


def test_means_by_editing_type() -> None:
    def row(editing_type: str, psnr: float) -> tuple[PieSample, dict[str, Measure]]:
        sample = PieSample("k", "", "", "", editing_type, None, ())
        return sample, dict.fromkeys(METRICS, Measure(None, "not taken")) | {"psnr_unedit_part": Measure(psnr)}

    table = means_by_type([row("1", 20), row("1", 30), row("9", math.nan), row("8", 40)])
    assert list(table) == ["all", "change object", "change background", "change style"]
    assert table["all"]["psnr_unedit_part"].value == 30
    assert table["change object"]["psnr_unedit_part"].value == 25
    assert table["change style"]["psnr_unedit_part"].value is None
    assert table["all"]["structure_distance"] == Measure(None, "not taken")


def test_pictures_are_measured_after_jpeg() -> None:
    _, edited = pictures(0)
    saved = through_jpeg(edited)
    assert saved.shape == edited.shape
    assert 0 < float((saved - edited).abs().mean()) < 0.1
    assert torch.equal(saved * 255, (saved * 255).round())
    assert torch.equal(through_jpeg(torch.zeros(3, 16, 16)), torch.zeros(3, 16, 16))


def test_published_rows_are_the_ones_of_the_literature() -> None:
    table = {row.method: (row.structure_distance, row.psnr_unedit_part) for row in PUBLISHED}
    assert table["DDIM"] == (69.4, 17.87)
    assert table["SPDInv"] == (8.8, 28.60)
    assert len(table) == 7


# LPIPS


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "squeezenet1_1.safetensors"
    tensors = {f"features.{name}": t for name, t in squeezenet_features().state_dict().items()}
    save_file(tensors | {"classifier.1.weight": torch.zeros(1000, 512, 1, 1)}, file)
    return file


def test_squeezenet_has_the_published_size() -> None:
    """1,235,496 weights in SqueezeNet 1.1, of which the classifier's convolution has 513,000."""
    assert sum(p.numel() for p in squeezenet_features().parameters()) == 1_235_496 - 513_000


def test_lpips_equals_torchmetrics(squeezenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Lpips(squeezenet)
    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", lambda *_: ours.features)
    theirs = reference_lpips._LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
    first, second = (torch.stack([2 * pictures(seed)[i] - 1 for seed in (0, 1)]) for i in (0, 1))
    assert torch.allclose(ours(first, second), theirs(first, second).flatten(), rtol=1e-4)
    assert (ours(first, first) == 0).all()


def test_lpips_is_taken_on_the_background(squeezenet: Path) -> None:
    source, edited = pictures(0)
    judges = load_judges(lpips=squeezenet)
    expected = judges.lpips(*(2 * (z * ~half())[None] - 1 for z in (edited, source)))  # type: ignore[operator]
    found = measure(source, edited, half(), "", judges)
    assert found["lpips_unedit_part"].value == pytest.approx(1e3 * float(expected), rel=1e-5)
    inside = measure(source, torch.where(half(), edited, source), half(), "", judges)
    assert inside["lpips_unedit_part"].value == 0


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not hold SqueezeNet"):
        load_judges(lpips=tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not hold SqueezeNet"):
        load_judges(lpips=tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="does not hold a ViTModel"):
        load_judges(dino=tmp_path)
    with pytest.raises(ValueError, match="does not hold a CLIPModel"):
        load_judges(clip=tmp_path)


# Structure distance


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("dino")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=224, patch_size=32, initializer_range=0.3)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scale", [255, 1])
def test_structure_distance_by_hand(dino: Path, scale: int) -> None:
    """224 × 224, so nothing is resized: keys of the last layer, cosine of every pair of tokens, MSE."""
    source, edited = pictures(0, side=224)
    vit = transformers.ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
    weights = dict(vit.named_parameters())
    similar = []
    for picture in (source, edited):
        centre, spread = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        normal = (scale * picture - centre) / spread
        with torch.no_grad():
            before_last = vit(normal[None], output_hidden_states=True).hidden_states[1][0]
            layer = [name.rsplit(".", 1)[0] for name in weights if name.endswith("layernorm_before.weight")][-1]
            x = torch.layer_norm(before_last, (16,), weights[f"{layer}.weight"], weights[f"{layer}.bias"], 1e-12)
            key = [name.rsplit(".", 1)[0] for name in weights if name.endswith(("k_proj.weight", "key.weight"))][-1]
            keys = (x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]).double()
        norms = keys.norm(dim=1)
        similar.append((keys @ keys.T) / (norms[:, None] * norms[None, :]))
    expected = float(((similar[0] - similar[1]) ** 2).mean())
    assert expected > 1e-6
    assert len(similar[0]) == 50, "49 patches and the class token"
    judge = DinoStructure(dino)
    assert float(judge(edited[None], source[None], as_published=scale == 255)) == pytest.approx(expected, rel=1e-3)
    assert float(judge(source[None], source[None])) == 0


def test_structure_distance_works_on_the_whole_picture_at_any_size(dino: Path) -> None:
    judges = Judges(NONE.lpips, DinoStructure(dino), NONE.clip)
    source, edited = pictures(0, side=64)
    found = measure(source, edited, torch.ones(64, 64, dtype=torch.bool), "", judges)
    published, normalised = (found[n].value for n in ("structure_distance", "structure_distance_normalised"))
    assert published is not None
    assert published > 0
    assert normalised is not None
    assert normalised > 0
    assert published != normalised
    wide = DinoStructure(dino)(source[None, :, :32], edited[None, :, :32])
    assert wide.shape == (1,)


# CLIP score


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(WORDS, 16, folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    text = transformers.CLIPTextConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=16, **marks)
    vision = transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=16)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    side = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    preparation = {"image_processor_type": "CLIPImageProcessor", "do_normalize": True, **side}
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def test_clip_score_by_hand(clip: Path) -> None:
    """32 × 32, so nothing is resized: 100 × cosine of the projected embeddings."""
    source, edited = ((pictures(0, side=32)[i] * 255).round() / 255 for i in (0, 1))
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    mean_, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = (torch.stack([source, edited]) - torch.tensor(mean_).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    tokens = transformers.CLIPTokenizer.from_pretrained(clip)(["a cat", "a dog"], return_tensors="pt")
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixels).pooler_output).double()
        said = model.text_projection(model.text_model(**tokens).pooler_output).double()
    cosine = (seen * said).sum(1) / (seen.norm(dim=1) * said.norm(dim=1))
    found = ClipScore(clip)(torch.stack([source, edited]), ["a cat", "a dog"])
    assert torch.allclose(found.double(), (100 * cosine).clamp_min(0), atol=1e-3)
    assert (found > 0).any(), "cosines below zero count as zero"


def test_clip_score_of_the_edited_part_blackens_the_rest(clip: Path) -> None:
    source, edited = pictures(0, side=32)
    score = ClipScore(clip)
    judges = replace(NONE, clip=score)
    found = measure(source, edited, half(32), "a dog", judges)
    whole, part = (float(score(z[None], ["a dog"])) for z in (edited, edited * half(32)))
    assert found["clip_similarity_target_image"].value == pytest.approx(whole, abs=1e-4)
    assert found["clip_similarity_target_image_edit_part"].value == pytest.approx(part, abs=1e-4)
    assert whole != part
    empty = measure(source, edited, torch.zeros(32, 32, dtype=torch.bool), "a dog", judges)
    assert math.isnan(empty["clip_similarity_target_image_edit_part"].value or 0)


def test_judges_say_what_they_lack() -> None:
    for judge in (NONE.lpips, NONE.structure, NONE.clip):
        assert isinstance(judge, Unavailable)
        assert "given" in judge.reason


class Watched:
    """A judge that keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Tensor, ...]] = []

    def __call__(self, *pictures: Any, **options: Any) -> Tensor:
        self.shown.append(tuple(p for p in pictures if isinstance(p, Tensor)))
        return torch.tensor([1.0, 2.0])[: 2 if len(pictures[0]) == 2 else 1]


def test_jpeg_is_pillows_at_its_default_quality() -> None:
    """The benchmark saves with no quality given, which is 75; at 95 a picture keeps twice the detail."""
    picture = torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(0))
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    assert torch.equal(through_jpeg(picture), expected)
    assert not torch.equal(through_jpeg(picture), through_jpeg(picture, quality=95))


def test_what_lpips_and_clip_are_shown() -> None:
    """LPIPS: both backgrounds in [-1, 1], the edited part mid-grey's zero made black; CLIP: the whole, and the part on black."""
    before, after = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros((8, 8), dtype=torch.bool)
    mask[2:5, 3:6] = True
    lpips, clip = Watched(), Watched()
    judges = Judges(lpips=lpips, structure=Unavailable("none"), clip=clip)  # type: ignore[arg-type]
    found = measure(before, after, mask, "a cat", judges)
    ((edited, source),) = lpips.shown
    torch.testing.assert_close(edited[0], 2 * (after * ~mask) - 1)
    torch.testing.assert_close(source[0], 2 * (before * ~mask) - 1)
    assert float(edited[0][:, 3, 4].max()) == -1
    ((both,),) = clip.shown
    torch.testing.assert_close(both, torch.stack([after, after * mask]))
    assert found["lpips_unedit_part"].value == 1e3
    assert [found[f"clip_similarity_target_image{part}"].value for part in ("", "_edit_part")] == [1.0, 2.0]


def test_a_samples_mask_has_its_border() -> None:
    """One pixel all around counts as edited, whatever the runs say."""
    mask = replace(SAMPLE, runs=()).mask()
    assert mask.sum() == 4 * 511
    assert bool(mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all())


SAMPLE = PieSample("1", "a.jpg", "a cat", "a dog", "1", None, (0, 1))
