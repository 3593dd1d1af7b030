"""Names, revisions, variants, shards, dtypes, devices and memory settings."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from fpcore.builtin.text import build_text_encoder, build_tokenizer
from fpcore.builtin.train import build_scheduler
from fpcore.models import load
from fpcore.models.codec import SpaceToDepth
from fpcore.models.layout import read_layout
from fpcore.models.load import hub_files, load_model, pick_device
from fpcore.models.memory import OneAtATime, place
from fpcore.models.model import Condition

pytestmark = pytest.mark.model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(model_folder, tmp_path):
    """A model to change."""
    return shutil.copytree(model_folder("sd1"), tmp_path / "model")


WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def built_in(folder):
    """A model as fpcore.builtin.train writes it, without model_index.json."""
    tokenizer = build_tokenizer(["haze", "clear"], 8, folder / "tokenizer")
    build_text_encoder(tokenizer, 16, 1).half().save_pretrained(folder / "text_encoder")
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=48,
        out_channels=48,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    unet.half().save_pretrained(folder / "unet")
    build_scheduler().save_pretrained(folder / "scheduler")
    SpaceToDepth(4).save_config(folder / "vae")
    return folder


def test_built_in_layout(tmp_path, monkeypatch):
    built_in(tmp_path / "haze")
    monkeypatch.setattr(load, "BUILTIN", tmp_path)
    model = load_model("builtin:haze", device="cpu")
    assert (model.family, model.image_size, model.dtype) == ("builtin", (32, 32), torch.float32)
    assert model.latent_shape(32, 32) == (48, 8, 8)
    assert model.scheduler.config.timestep_spacing == "log-sigma"
    assert float(model.scheduler.alphas_cumprod[-1]) == pytest.approx(6e-5, rel=1e-3)
    pixels = torch.rand((2, 3, 32, 32)) * 2 - 1
    assert torch.equal(model.decode(model.encode(pixels)), pixels)
    condition = model.embed(["haze", ""])
    assert model.predict(model.encode(pixels), torch.tensor([10, 900]), condition).shape == (2, 48, 8, 8)


def test_unknown_names(tmp_path, monkeypatch):
    built_in(tmp_path / "haze")
    monkeypatch.setattr(load, "BUILTIN", tmp_path)
    with pytest.raises(ValueError, match=r"there is no builtin:fog; this installation has builtin:haze"):
        load_model("builtin:fog")
    with pytest.raises(ValueError, match=r"there is no builtin:\.\./haze"):
        load_model("builtin:../haze")
    for name in ("", "sd15", "./nowhere", "/nowhere/model", "a/b/c", "../no-such-model"):
        with pytest.raises(ValueError, match="no model"):
            load_model(name)


@pytest.fixture
def hub_cache(model_folder, tmp_path, monkeypatch):
    """The hub's cache with two revisions of someone/model: main, and one with another scheduler."""
    repository = tmp_path / "hub" / "models--someone--model"
    for revision, commit in (("main", COMMIT), ("offset", COMMIT[::-1])):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(model_folder("sd1"), repository / "snapshots" / commit)
    edit(repository / "snapshots" / COMMIT[::-1] / "scheduler" / "scheduler_config.json", set_alpha_to_one=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


@pytest.mark.usefixtures("hub_cache")
def test_hub_model_from_the_cache_by_revision():
    main = load_model("someone/model", local_files_only=True, device="cpu")
    other = load_model("someone/model", revision="offset", local_files_only=True, device="cpu")
    by_commit = load_model("someone/model", revision=COMMIT, local_files_only=True, device="cpu")
    assert main.name == "someone/model"
    assert not main.scheduler.config.set_alpha_to_one
    assert other.scheduler.config.set_alpha_to_one
    assert main.digest == by_commit.digest != other.digest


@pytest.mark.usefixtures("hub_cache")
def test_hub_model_that_is_not_there():
    with pytest.raises(ValueError, match="cannot fetch someone/other from the hub"):
        load_model("someone/other", local_files_only=True)
    with pytest.raises(ValueError, match="cannot fetch someone/model from the hub"):
        load_model("someone/model", revision="nope", local_files_only=True)


def test_files_fetched_from_the_hub():
    """Of a repository like those of Stable Diffusion: one set of weights, no pickle, no code, no unused component."""
    files = ["model_index.json", "README.md", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "pipeline.py"]
    files += ["scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/evil.py"]
    files += ["safety_checker/model.safetensors", "safety_checker/config.json", "unet/flax_model.msgpack"]
    for part, stem in WEIGHTS.items():
        files += [f"{part}/config.json", f"{part}/pytorch_model.bin", f"{part}/{stem}.bin", f"{part}/{stem}.fp16.bin"]
        files += [f"{part}/{stem}{infix}.safetensors" for infix in ("", ".fp16", ".non_ema")]
    common = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/vocab.json"}
    common |= {f"{part}/config.json" for part in WEIGHTS}
    for variant, infix in ((None, ""), ("fp16", ".fp16")):
        fetched = set(filter_repo_objects(files, allow_patterns=hub_files(variant)))
        assert fetched == common | {f"{part}/{stem}{infix}.safetensors" for part, stem in WEIGHTS.items()}
    shards = ["unet/diffusion_pytorch_model-00001-of-00002.safetensors"]
    shards += ["unet/diffusion_pytorch_model.safetensors.index.json"]
    assert list(filter_repo_objects(shards, allow_patterns=hub_files(None))) == shards


def test_variant(folder):
    plain = load_model(str(folder), device="cpu")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        file = folder / part / f"{stem}.safetensors"
        half = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(half, folder / part / f"{stem}.fp16.safetensors", metadata={"format": "pt"})
        file.unlink()
    with pytest.raises(ValueError, match=r"it has diffusion_pytorch_model.fp16.safetensors: set variant"):
        load_model(str(folder), device="cpu")
    half = load_model(str(folder), variant="fp16", device="cpu")
    assert half.dtype == torch.float32
    assert half.digest != plain.digest
    expected = plain.unet.conv_in.weight.half().float()
    assert torch.equal(half.unet.conv_in.weight, expected)


def test_shards(folder):
    plain = load_model(str(folder), device="cpu")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    plain.unet.save_pretrained(folder / "unet", max_shard_size="500KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 2
    sharded = load_model(str(folder), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(plain.unet.parameters(), sharded.unet.parameters(), strict=True))
    next((folder / "unet").glob("*-00001-of-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="is missing; download the model again"):
        load_model(str(folder), device="cpu")


def test_digest_sees_every_file_that_matters(folder):
    """Weights, configurations and vocabulary; not the place of the folder, nor files that are not used."""
    first = read_layout(folder).digest()
    (folder / "README.md").write_text("a model")
    assert read_layout(shutil.copytree(folder, folder.parent / "elsewhere")).digest() == first
    for file in ("unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "tokenizer/vocab.json"):
        intact = (folder / file).read_bytes()
        flipped = intact[:-1] + bytes([intact[-1] ^ 1]) if file.endswith("safetensors") else intact + b"\n"
        (folder / file).write_bytes(flipped)
        assert read_layout(folder).digest() != first
        (folder / file).write_bytes(intact)
    assert read_layout(folder).digest() == first


def test_dtype_per_component(folder):
    model = load_model(str(folder), torch_dtype="bfloat16", device="cpu")
    assert (model.dtype, model.text_encoders[0].dtype, model.vae.dtype) == (torch.bfloat16,) * 2 + (torch.float32,)
    options = {"torch_dtype": torch.float16, "text_encoder_dtype": "float32", "vae_dtype": "bfloat16"}
    model = load_model(str(folder), device="cpu", **options)
    assert model.dtype == torch.float16
    assert (model.text_encoders[0].dtype, model.vae.dtype) == (torch.float32, torch.bfloat16)
    condition = model.embed(["haze"])
    pixels = torch.zeros((1, 3, 64, 64))
    latents = model.encode(pixels)
    output = model.predict(latents, torch.tensor([500]), condition)
    assert {x.dtype for x in (condition.embeddings, latents, output, model.decode(latents))} == {torch.float32}
    with pytest.raises(ValueError, match="unknown dtype 'float15'; choose among auto, float32, float16, bfloat16"):
        load_model(str(folder), torch_dtype="float15", device="cpu")


def test_device_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cpu").type == "cpu"


def test_attention_backends_agree(folder):
    z, t = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([30, 800])
    outputs = []
    for attention, processor in (("sdpa", AttnProcessor2_0), ("eager", AttnProcessor), ("sliced", None)):
        model = load_model(str(folder), attention=attention, device="cpu")
        used = {type(p) for p in model.unet.attn_processors.values()}
        assert processor is None or used == {processor}
        assert processor or {u.__name__ for u in used} == {"SlicedAttnProcessor"}
        outputs.append(model.predict(z, t, model.embed(["haze", ""])))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="unknown attention 'flash'"):
        load_model(str(folder), attention="flash", device="cpu")


def test_vae_slicing_and_tiling(folder):
    plain = load_model(str(folder), device="cpu")
    sliced = load_model(str(folder), vae_slicing=True, device="cpu")
    tiled = load_model(str(folder), vae_tiling=True, device="cpu")
    pixels = torch.rand((2, 3, 96, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(sliced.encode(pixels), plain.encode(pixels), rtol=0, atol=1e-4)
    assert (sliced.vae.use_slicing, tiled.vae.use_tiling) == (True, True)
    assert tiled.encode(pixels).shape == plain.encode(pixels).shape  # tiles overlap and blend: near, not equal


def test_cpu_offload_needs_a_gpu(folder):
    with pytest.raises(ValueError, match="without a GPU leave it off"):
        load_model(str(folder), device="cpu", cpu_offload=True)


class Recorded(torch.nn.Linear):
    """A component that says where it is told to go."""

    def __init__(self):
        super().__init__(2, 2)
        self.moves = []

    def to(self, device):
        self.moves.append(str(device))
        return self


def test_offload_keeps_one_component_on_the_device():
    first, second = Recorded(), Recorded()
    place([first, second], torch.device("meta"), cpu_offload=True)
    assert not first.weight.requires_grad
    first(torch.zeros(1, 2))
    assert (first.moves, second.moves) == (["meta"], ["cpu"])
    second(torch.zeros(1, 2))
    assert (first.moves, second.moves) == (["meta", "cpu"], ["cpu", "meta"])


def test_offload_hooks_reach_the_vae(folder):
    """encode and decode are not forward: the hook must be called there too."""
    model = load_model(str(folder), device="cpu")
    place([model.unet, model.vae, *model.text_encoders], torch.device("cpu"), cpu_offload=True)
    hooks = [part._hf_hook for part in (model.unet, model.vae, *model.text_encoders)]
    assert {type(hook) for hook in hooks} == {OneAtATime}
    calls = []
    for part in (model.unet, model.vae, *model.text_encoders):
        part._hf_hook.pre_forward = lambda module, *args, **kwargs: calls.append(type(module)) or (args, kwargs)
    latents = model.encode(torch.zeros((1, 3, 64, 64)))
    model.predict(model.decode(latents)[:, :1].expand(-1, 4, -1, -1)[..., :8, :8], torch.tensor([1]), model.embed([""]))
    assert calls.count(AutoencoderKL) == 2
    assert UNet2DConditionModel in calls
    assert len(calls) == 4


def test_parameters_take_no_gradients_but_conditions_can(folder):
    """Null-text optimisation differentiates through the UNet, also after embedding in inference mode."""
    model = load_model(str(folder), device="cpu")
    assert not any(p.requires_grad for part in (model.unet, model.vae, *model.text_encoders) for p in part.parameters())
    with torch.inference_mode():
        model.embed([""])
    null = model.embed([""]).embeddings.clone().requires_grad_()
    model.predict(torch.ones((1, 4, 8, 8)), torch.tensor([500]), Condition(null)).sum().backward()
    assert null.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"in_channels": 9}, "inpainting"),
        ({"class_embed_type": "projection"}, "does not feed"),
        ({"addition_embed_type": "image"}, "conditions other than text"),
        ({"addition_embed_type": "text_time"}, "without text_encoder_2, tokenizer_2"),
        ({"encoder_hid_dim_type": "image_proj"}, "does not feed"),
        ({"time_cond_proj_dim": 256}, "does not feed .time_cond_proj_dim"),
        ({"num_class_embeds": 10}, "does not feed"),
    ],
)
def test_unsupported_unets(folder, changes, named):
    edit(folder / "unet" / "config.json", **changes)
    with pytest.raises(ValueError, match=named):
        load_model(str(folder), device="cpu")


def test_refiner(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("sdxl"), tmp_path / "refiner")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ValueError, match="SDXL refiner"):
        load_model(str(folder))


def test_clipping_is_switched_off(folder):
    """Without clip_sample in the configuration diffusers' DDIM clips, and a clipped step has no inverse."""
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon", "steps_offset": 1})
    )
    assert load_model(str(folder), device="cpu").scheduler.config.clip_sample is False


def test_long_prompts_are_cut_with_a_warning(folder, caplog):
    model = load_model(str(folder), device="cpu")
    assert model.embed(["a cat " * 30]).embeddings.shape[1] == 77
    assert caplog.records == []
    model.embed(["a cat " * 50])
    assert "the model reads only the first 77 tokens of a prompt: 'a cat a cat" in caplog.text


def condition(rows, sdxl=False):
    e = torch.arange(rows, dtype=torch.float32)
    embeddings = e.view(-1, 1, 1).expand(-1, 2, 3)
    return Condition(embeddings, e[:, None].expand(-1, 4), e[:, None].expand(-1, 6)) if sdxl else Condition(embeddings)


@pytest.mark.parametrize("sdxl", [False, True])
def test_condition_rows_cat_repeat_lerp(sdxl):
    three = condition(3, sdxl)

    def values(c):
        for other in (c.pooled, c.time_ids):
            assert (other is not None) == sdxl
        return c.embeddings[:, 0, 0].tolist()

    assert len(three) == 3
    assert values(three.rows(torch.tensor([2, 0, 2]))) == [2, 0, 2]
    assert values(three.rows(torch.tensor([True, False, True]))) == [0, 2]
    assert values(three.repeat(2)) == [0, 1, 2, 0, 1, 2]
    mixed = three.lerp(three.rows(torch.tensor([2, 2, 2])), torch.tensor([0.5, 1.0, 0.3]))
    assert values(mixed) == [1, 2, 2]
    assert values(three.lerp(three.rows(torch.tensor([1, 2, 0])), 0.5)) == [0.5, 1.5, 1.0]
    if sdxl:
        assert mixed.pooled[:, 0].tolist() == [1, 2, 2]
        assert mixed.time_ids[:, 0].tolist() == [0, 1, 2]


def test_sdxl_is_told_the_size(model_folder):
    model = load_model(str(model_folder("sdxl")), device="cpu")
    assert model.embed(["haze"]).time_ids.tolist() == [[64, 64, 0, 0, 64, 64]]
    assert model.embed(["haze", ""], size=(96, 32)).time_ids.tolist() == [[96, 32, 0, 0, 96, 32]] * 2


@pytest.mark.parametrize("name", ["haze"])
def test_shipped_model(name):
    model = load_model(f"builtin:{name}", device="cpu")
    height, width = model.image_size
    pixels = torch.zeros((1, 3, height, width))
    condition = model.embed(["haze", "clear"])
    outputs = model.predict(model.encode(pixels).repeat(2, 1, 1, 1), torch.tensor([900, 900]), condition)
    assert outputs.isfinite().all()
    assert (outputs[0] - outputs[1]).abs().max() > 0.1  # the words are heard
