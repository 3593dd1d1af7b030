"""Token maps against alignments worked out by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpcore.builtin.text import build_tokenizer
from fpcore.editing.token_alignment import (
    TokenAlignment,
    align,
    align_tokens,
    find_word,
    removal,
    word_tokens,
)
from tests.tiny_models import WORDS

L = 12


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return build_tokenizer(WORDS, L, folder)


def sources(tokens: TokenAlignment) -> list[int | None]:
    """For each target token the one source token it takes its attention from, None where it keeps its own."""
    kept, best = tokens.kept[0], tokens.matrix[0].max(0)
    assert ((best.values == 1) | (kept == 0)).all()
    return [int(i) if k else None for i, k in zip(best.indices, kept, strict=True)]


# Positions: 0 begin, then one a word, then the end mark, then padding up to 11.
@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a photo of a cat", "a photo of a cat", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("a photo of a cat", "a photo of a dog", [0, 1, 2, 3, 4, None, 6, 7, 8, 9, 10, 11]),
        ("a cat", "a hazy cat", [0, 1, None, 2, 3, 5, 6, 7, 8, 9, 10, 11]),
        ("a hazy cat", "a cat", [0, 1, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11]),
        ("the cat and the dog", "the dog and the cat", [0, 1, None, 3, 4, None, 6, 7, 8, 9, 10, 11]),
        ("a cat", "a a cat", [0, 1, None, 2, 3, 5, 6, 7, 8, 9, 10, 11]),
        ("haze", "", [0, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("", "haze", [0, None, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        # ten words fill the prompt: the end mark stands in for the padding that the source has not got
        ("the sky in the desert with a road and tree", "the sky", [0, 1, 2, 11, 11, 11, 11, 11, 11, 11, 11, 11]),
    ],
)
def test_refinement_by_hand(tokenizer: Any, source: str, target: str, expected: list[int | None]) -> None:
    assert sources(align_tokens(tokenizer, L, source, target, "refine")) == expected


def test_removal_gives_only_the_haze_token_to_the_null_text(tokenizer: Any) -> None:
    expected = [0, None, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert sources(align_tokens(tokenizer, L, "haze", "", "remove")) == expected
    both = align_tokens(tokenizer, L, "a photo of the haze in the sky", "a photo of the sky", "remove")
    assert [i for i, k in enumerate(both.kept[0]) if k == 0] == [5, 6, 7], "haze in the"


def test_replacement_of_equally_long_words_is_the_identity(tokenizer: Any) -> None:
    tokens = align_tokens(tokenizer, L, "a photo of a cat", "a photo of a dog", "replace")
    assert torch.equal(tokens.matrix[0], torch.eye(L))
    assert torch.equal(tokens.kept[0], torch.ones(L))


def test_replacement_shares_a_words_attention_among_its_tokens(tokenizer: Any) -> None:
    assert word_tokens(tokenizer, "a elk", L) == [[1], [2, 3, 4]], "elk is not in the vocabulary and is spelled"
    there = align_tokens(tokenizer, L, "a cat road", "a elk road", "replace")
    rows = torch.eye(L)
    rows[2] = torch.tensor([0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0, 0, 0, 0])
    rows[3], rows[4] = torch.eye(L)[5], torch.eye(L)[6]
    rows[5:7] = 0  # the source's padding 5 and 6 lies where the target still has words, and is not asked for
    assert torch.allclose(there.matrix[0], rows)
    back = align_tokens(tokenizer, L, "a elk road", "a cat road", "replace").matrix[0]
    assert back[:, 2].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert back[:, 4].tolist() == [0] * 6 + [1] + [0] * 5, "the end mark"


def test_replacement_needs_equally_many_words(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="not 2 and 3: use the mode 'refine'"):
        align_tokens(tokenizer, L, "a cat", "a hazy cat", "replace")
    with pytest.raises(ValueError, match="not one of refine, replace, remove"):
        align_tokens(tokenizer, L, "a cat", "a dog", "swap")  # type: ignore[arg-type]


def test_blend_words_are_marked_and_amplified(tokenizer: Any) -> None:
    tokens = align_tokens(tokenizer, L, "a hazy Cat, a house", "the clear dog", "refine", ("cat", "dog"), amplify=3)
    assert tokens.blend_source[0].nonzero().flatten().tolist() == [3, 4], "cat and its comma"
    assert tokens.blend_target[0].nonzero().flatten().tolist() == [3]
    assert tokens.scale[0].tolist() == [1, 1, 1, 3] + [1] * 8
    weighted = align_tokens(
        tokenizer, L, "a cat", "a clear dog", "refine", ("cat", "dog"), 3, [("clear", 0.5), ("a", -1)]
    )
    assert weighted.scale[0].tolist() == [1, -1, 0.5, 3] + [1] * 8
    plain = align_tokens(tokenizer, L, "a cat", "a dog")
    assert plain.blend_source.sum() == plain.blend_target.sum() == 0
    assert torch.equal(plain.scale, torch.ones(1, L))


def test_a_blend_word_must_be_in_its_prompt(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="'ocean' is not in the prompt 'a cat'"):
        align_tokens(tokenizer, L, "a cat", "a dog", "refine", ("ocean", "dog"))
    long = "a photo of the cat in the desert with the clear ocean"
    with pytest.raises(ValueError, match="past the tokens the model reads"):
        find_word(tokenizer, long, "ocean", L)


def test_every_occurrence_of_a_word_is_found(tokenizer: Any) -> None:
    assert find_word(tokenizer, "a cat and a cat", "cat", L) == [2, 5]
    assert find_word(tokenizer, "a cat and a dog", "cat dog", L) == [2, 5]


def test_edited_attention_by_hand() -> None:
    """Token 1 takes its source's attention doubled, token 2 keeps its own, token 0 takes half of what token 2 had."""
    matrix = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0.5, 0, 0]]])
    tokens = TokenAlignment(matrix, torch.tensor([[1.0, 1, 0]]), torch.tensor([[1.0, 2, 1]]), *torch.zeros(2, 1, 3))
    source, target = torch.tensor([0.2, 0.3, 0.5]).view(1, 1, 1, 3), torch.tensor([0.6, 0.3, 0.1]).view(1, 1, 1, 3)
    assert torch.allclose(tokens.edited(source, target).flatten(), torch.tensor([0.25, 0.6, 0.1]))


def test_pairs_are_stacked_in_order(tokenizer: Any) -> None:
    one, two = align_tokens(tokenizer, L, "a cat", "a hazy cat"), align_tokens(tokenizer, L, "haze", "")
    both = TokenAlignment.cat([one, two]).to(torch.device("cpu"))
    assert len(both) == 2
    assert torch.equal(both.matrix, torch.cat([one.matrix, two.matrix]))


short = st.lists(st.integers(0, 3), max_size=6)


@given(short, short)
def test_alignment_is_a_longest_common_subsequence(x: list[int], y: list[int]) -> None:
    pairs = [(i, j) for j, i in enumerate(align(x, y)) if i is not None]
    assert all(x[i] == y[j] for i, j in pairs)
    assert [i for i, _ in pairs] == sorted({i for i, _ in pairs}), "strictly increasing"
    common = {p for n in range(len(x) + 1) for p in combinations(x, n)} & {
        p for n in range(len(y) + 1) for p in combinations(y, n)
    }
    assert len(pairs) == max(map(len, common))


@given(short, short)
def test_removal_never_moves_attention(x: list[int], y: list[int]) -> None:
    matrix, kept = removal(x, y, 8)
    assert torch.equal(matrix, torch.eye(8))
    assert int((kept == 0).sum()) == len(x) - sum(i is not None for i in align(x, y))


@pytest.mark.parametrize("mode", ["refine", "replace"])
def test_padding_by_position_is_prompt_to_prompts_own(tokenizer: Any, mode: Any) -> None:
    """A shorter target's padding takes over whatever the source has there, words included."""
    source, target = ("a photo of a cat", "a cat") if mode == "refine" else ("a photo cat", "a photo dog")
    ours = sources(align_tokens(tokenizer, L, source, target, mode))
    theirs = sources(align_tokens(tokenizer, L, source, target, mode, padding="position"))
    end = len(target.split()) + 2
    assert theirs[end:] == list(range(end, L))
    assert theirs[:end] == ours[:end]
    assert (ours != theirs) == (mode == "refine")
    longer = (
        align_tokens(tokenizer, L, "a cat", "a hazy cat"),
        align_tokens(tokenizer, L, "a cat", "a hazy cat", padding="position"),
    )
    assert sources(longer[0]) == sources(longer[1])
