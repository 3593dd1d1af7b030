"""Hooking, counting and recording attention on a UNet with Stable Diffusion's layout."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fpcore.editing.attention import (
    AttentionHookError,
    AttentionLayer,
    PlacedPrompts,
    RecordAttention,
    attention,
    attention_layers,
    attention_weights,
    controlled,
    join_prompts,
    promised_layers,
)
from fpcore.models.model import Condition
from tests.tiny_models import PUBLISHED, SMALL_UNETS

SIZE = (16, 12)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**PUBLISHED["sd1"], **SMALL_UNETS["sd1"]}).eval().requires_grad_(False)


def evaluate(unet: UNet2DConditionModel, rows: int = 2, tokens: int = 7) -> Tensor:
    torch.manual_seed(1)
    z, c = torch.randn(rows, 4, *SIZE), torch.randn(rows, tokens, unet.config.cross_attention_dim)
    return unet(z, torch.tensor([500] * rows), encoder_hidden_states=c).sample


class Everything:
    """Stands in for every layer with the plain formula."""

    def touches(self, layer: AttentionLayer) -> bool:
        return True

    def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention_weights(query, key) @ value


class Nothing(Everything):
    def touches(self, layer: AttentionLayer) -> bool:
        return False


# Transformer blocks of the published UNets: SD 1 and 2 have 6 + 1 + 9; XL has 4 + 20, 10 in the middle, 30 + 6.
@pytest.mark.parametrize(("family", "blocks"), [("sd1", 16), ("sd2", 16), ("sdxl", 70)])
def test_published_unets_have_the_layers_their_configuration_promises(family: str, blocks: int) -> None:
    narrow = {"block_out_channels": tuple(32 for _ in PUBLISHED[family]["block_out_channels"]), "attention_head_dim": 1}
    unet = UNet2DConditionModel(**{**PUBLISHED[family], **narrow, "cross_attention_dim": 8})
    layers = attention_layers(unet)
    assert promised_layers(unet.config) == (blocks, blocks)
    assert sum(layer.cross for layer in layers) == blocks
    assert len(layers) == 2 * blocks


def test_other_configurations_are_counted_too() -> None:
    """Plain attention blocks, several transformers a block, blocks without self-attention, no middle block."""
    unet = UNet2DConditionModel(
        block_out_channels=(16, 16),
        norm_num_groups=8,
        down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "AttnUpBlock2D"),
        mid_block_type=None,
        layers_per_block=(1, 2),
        transformer_layers_per_block=(1, 3),
        only_cross_attention=(False, True),
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    layers = attention_layers(unet)
    # two attentions to the text in each of 3 transformers of 2 layers down and 3 up; plain ones in 1 layer down, 2 up
    assert promised_layers(unet.config) == (2 * 3 * (2 + 3), 1 + 2)
    assert {layer.level for layer in layers if layer.cross} == {1}


def test_layers_know_their_grid(unet: UNet2DConditionModel) -> None:
    seen: dict[str, int] = {}

    class Spy(Everything):
        def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            seen[layer.name] = query.shape[2]
            return attention(query, key, value)

    with controlled(unet, Spy()):
        evaluate(unet)
    layers = attention_layers(unet)
    assert {layer.level for layer in layers} == {0, 1, 2, 3}
    assert seen == {layer.name: layer.grid(SIZE)[0] * layer.grid(SIZE)[1] for layer in layers}


def test_plain_formula_equals_the_processors_of_diffusers(unet: UNet2DConditionModel) -> None:
    plain = evaluate(unet)
    with controlled(unet, Everything()):
        assert torch.allclose(evaluate(unet), plain, atol=1e-5)


def test_untouched_layers_are_bit_identical(unet: UNet2DConditionModel) -> None:
    plain = evaluate(unet)
    with controlled(unet, Nothing()):
        assert torch.equal(evaluate(unet), plain)


def test_processors_come_back_also_after_an_error(unet: UNet2DConditionModel) -> None:
    before = dict(unet.attn_processors)
    with pytest.raises(KeyboardInterrupt), controlled(unet, Nothing()):
        raise KeyboardInterrupt
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
    assert not unet._forward_hooks


def test_a_layer_diffusers_does_not_show_is_missed_loudly(unet: UNet2DConditionModel) -> None:
    shown = dict(unet.attn_processors)
    shown.pop(next(iter(shown)))
    poorer = SimpleNamespace(config=unet.config, attn_processors=shown, get_submodule=unet.get_submodule)
    with pytest.raises(
        AttentionHookError, match="promises 16 cross- and 16 self-attention layers, but diffusers shows"
    ):
        attention_layers(poorer)


def test_a_layer_that_was_not_hooked_is_named(unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = copy.deepcopy(unet)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    monkeypatch.setattr(forgetful.get_submodule(name), "set_processor", lambda processor: None)
    with pytest.raises(AttentionHookError, match=f"1 of 32 attention layers were not hooked, the first is {name}"):
        with controlled(forgetful, Nothing()):
            pytest.fail("the run must not start")


def test_a_hooked_layer_that_does_not_run_is_named(unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    bypassing = copy.deepcopy(unet)
    layer = bypassing.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **_: hidden_states)
    with pytest.raises(AttentionHookError, match="1 of 32 hooked attention layers did not run once in each of 1"):
        with controlled(bypassing, Nothing()):
            evaluate(bypassing)


def test_adapters_and_masks_are_refused(unet: UNet2DConditionModel) -> None:
    z, c, t, mask = torch.randn(2, 4, *SIZE), torch.randn(2, 7, 32), torch.tensor([500, 500]), torch.ones(2, 7)
    with pytest.raises(AttentionHookError, match="not a plain"), controlled(unet, Everything()):
        unet(z, t, encoder_hidden_states=c, encoder_attention_mask=mask)


def test_maps_are_means_over_heads_and_layers() -> None:
    record = RecordAttention((8, 8), max_tokens=16)
    fine, coarse = AttentionLayer("a", True, 1), AttentionLayer("b", True, 2)
    weights = torch.zeros(1, 2, 16, 3)
    weights[0, 0, :, 0], weights[0, 1, :, 1] = 1, 1  # one head looks at token 0, the other at token 1
    record.maps.add(fine, weights)
    ramp = torch.zeros(1, 1, 4, 3)
    ramp[0, 0, :, 2] = 1
    record.maps.add(coarse, ramp)
    maps = record.maps.average()
    assert maps.shape == (1, 3, 4, 4)
    assert torch.allclose(maps[0, :, 0, 0], torch.tensor([0.25, 0.25, 0.5]))


def test_recorded_maps_sum_to_one_and_leave_the_output_alone(unet: UNet2DConditionModel) -> None:
    plain, record = evaluate(unet), RecordAttention(SIZE, max_tokens=50)
    with controlled(unet, record):
        assert torch.allclose(evaluate(unet), plain, atol=1e-5)
    maps = record.maps.average()
    assert maps.shape == (2, 7, 8, 6)
    assert torch.allclose(maps.sum(1), torch.ones(2, 8, 6), atol=1e-5)
    assert record.maps.count == 11, (
        "5 + 5 layers on the two middle grids of at most 50 positions, 1 in the middle block"
    )


def test_no_maps_without_a_run() -> None:
    with pytest.raises(AttentionHookError, match="no attention map was recorded"):
        RecordAttention(SIZE).maps.average()


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_one_prompt_everywhere_is_plain_attention_to_it(unet: UNet2DConditionModel, prompt: int) -> None:
    torch.manual_seed(2)
    z, t = torch.randn(2, 4, *SIZE), torch.tensor([300, 300])
    prompts = Condition(torch.randn(3, 7, 32))
    plain = unet(z, t, encoder_hidden_states=prompts.embeddings[prompt].expand(2, -1, -1)).sample
    joined = join_prompts(prompts).repeat(2).embeddings
    weights = torch.zeros(2, 3, 64, 48)
    weights[:, prompt] = 1
    with controlled(unet, PlacedPrompts(weights, SIZE)):
        assert torch.allclose(unet(z, t, encoder_hidden_states=joined).sample, plain, atol=1e-5)


def test_weights_hold_at_each_position_and_for_each_row() -> None:
    torch.manual_seed(3)
    query, key, value = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 6, 5), torch.randn(3, 2, 6, 5)
    m = torch.tensor([[[1.0, 0.0], [0.25, 0.5]], [[0.0, 0.0], [0.0, 1.0]]])[:, None]
    control = PlacedPrompts(torch.cat([m, 1 - m], 1), (2, 2))
    control.rows = torch.tensor([0, 1, 0])  # the third row belongs to the first picture again
    out = control.attend(AttentionLayer("a", True, 0), query, key, value)
    first = (query @ key[:, :, :3].mT / 5**0.5).softmax(-1) @ value[:, :, :3]
    second = (query @ key[:, :, 3:].mT / 5**0.5).softmax(-1) @ value[:, :, 3:]
    share = m[[0, 1, 0], 0].flatten(1)[:, None, :, None]
    assert torch.allclose(out, share * first + (1 - share) * second, atol=1e-6)


@pytest.mark.parametrize(
    "weights", [torch.ones(4, 4), torch.full((1, 1, 4, 4), 1.5), torch.full((1, 1, 4, 4), torch.nan)]
)
def test_weights_out_of_range_are_refused(weights: Tensor) -> None:
    with pytest.raises(ValueError, match="values from 0 to 1"):
        PlacedPrompts(weights, SIZE)
