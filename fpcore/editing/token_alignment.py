"""Which tokens of a source prompt stand for which tokens of a target prompt (Prompt-to-Prompt, Hertz et al. 2023).

A map edits cross-attention weights A (source) and A' (target), each a row of L tokens per position:

    A'' = s ⊙ (κ ⊙ (A M) + (1 − κ) ⊙ A')

M (L, L) carries source tokens to target tokens, κ (L) says which target tokens take the source's attention, s (L)
amplifies. Replacement, refinement, removal and re-weighting differ in M, κ and s only.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fpcore.editing.settings import TOKEN_MODES, PaddingRule, TokenMode


@dataclass(frozen=True)
class TokenAlignment:
    """The maps of P prompt pairs, float32.

    ``matrix`` (P, L, L): M, source token to target token. ``kept`` (P, L): κ. ``scale`` (P, L): s. ``blend_source``,
    ``blend_target`` (P, L): 1 at the tokens of each prompt's blend word, all 0 for a pair without one.
    """

    matrix: Tensor
    kept: Tensor
    scale: Tensor
    blend_source: Tensor
    blend_target: Tensor

    def __len__(self) -> int:
        return len(self.matrix)

    def edited(self, source: Tensor, target: Tensor) -> Tensor:
        """A'' of weights (P, heads, Q, L)."""
        kept, scale = self.kept[:, None, None], self.scale[:, None, None]
        return scale * (kept * (source @ self.matrix[:, None]) + (1 - kept) * target)

    def to(self, device: torch.device) -> TokenAlignment:
        """The same maps on ``device``."""
        return TokenAlignment(*(getattr(self, f.name).to(device) for f in fields(self)))

    @staticmethod
    def cat(maps: Sequence[TokenAlignment]) -> TokenAlignment:
        """The pairs of several maps, one after the other."""
        return TokenAlignment(*(torch.cat([getattr(m, f.name) for m in maps]) for f in fields(TokenAlignment)))


def align_tokens(
    tokenizer: Any,
    length: int,
    source: str,
    target: str,
    mode: TokenMode = "refine",
    blend_words: tuple[str, str] | None = None,
    amplify: float = 2.0,
    reweight: Sequence[tuple[str, float]] = (),
    padding: PaddingRule = "padding",
) -> TokenAlignment:
    """The map of one pair (P = 1).

    Args:
        tokenizer: of the CLIP kind; a word's tokens must not depend on its neighbours.
        length: L, the number of tokens of a padded prompt.
        mode: ``refine`` keeps the attention of all tokens the prompts share, in order; ``replace`` carries it word by
            word, for prompts of equally many words; ``remove`` keeps every position's but those of source tokens that
            the target lacks, which get the target's own (``haze`` to "": the haze token's is the null text's).
        blend_words: the word in the source and the word in the target that the edit is about, for local blending;
            the target's word is amplified.
        amplify: s at the target's blend word.
        reweight: words of the target, each with its s; they go before ``amplify``.
        padding: see ``fpcore.editing.settings.PADDING_RULES``.

    Raises ValueError where the mode does not fit the prompts or a word is not in its prompt.
    """
    x, y = (tokenizer(p, truncation=True, max_length=length)["input_ids"] for p in (source, target))
    if mode == "replace":
        words = word_tokens(tokenizer, source, length), word_tokens(tokenizer, target, length)
        matrix, kept = replacement(*words, len(x), len(y), length)
    elif mode in TOKEN_MODES:
        matrix, kept = (refinement if mode == "refine" else removal)(x, y, length)
    else:
        raise ValueError(f"token mode {mode!r} is not one of {', '.join(TOKEN_MODES)}")
    if padding == "position" and mode != "remove":
        matrix[:, len(y) :] = torch.eye(length)[:, len(y) :]
    blends = torch.zeros(2, 1, length)
    for i, prompt in enumerate((source, target) if blend_words else ()):
        blends[i, 0, find_word(tokenizer, prompt, blend_words[i], length)] = 1  # type: ignore[index]
    scale = 1 + (amplify - 1) * blends[1]
    for word, factor in reweight:
        scale[0, find_word(tokenizer, target, word, length)] = factor
    return TokenAlignment(matrix[None], kept[None], scale, blends[0], blends[1])


# The three kinds of map


def refinement(source: Sequence[int], target: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """M (L, L) and κ (L) from token ids with begin and end mark: tokens in common keep their attention."""
    matrix, kept = torch.zeros(length, length), torch.zeros(length)
    for j, i in enumerate(align(source, target)):
        if i is not None:
            matrix[i, j], kept[j] = 1, 1
    _map_padding(matrix, kept, len(source), len(target))
    return matrix, kept


def replacement(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], source_end: int, target_end: int, length: int
) -> tuple[Tensor, Tensor]:
    """M (L, L) and κ (L) from the token positions of each word: the n-th word's attention goes to the n-th word.

    Words of differently many tokens share it evenly, so that a position's attention still sums to 1. ``source_end`` and
    ``target_end`` are the numbers of tokens with begin and end mark.
    """
    if len(source) != len(target):
        raise ValueError(
            f"replacing word by word needs prompts of equally many words, not {len(source)} and {len(target)}: "
            "use the mode 'refine'"
        )
    matrix, kept = torch.zeros(length, length), torch.ones(length)
    for here, there in [([0], [0]), *zip(source, target, strict=True), ([source_end - 1], [target_end - 1])]:
        if len(here) == len(there):
            matrix[here, there] = 1
        elif here and there:
            matrix[torch.tensor(here)[:, None], torch.tensor(there)] = 1 / len(there)
    _map_padding(matrix, kept, source_end, target_end)
    return matrix, kept


def removal(source: Sequence[int], target: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """M (L, L) and κ (L): the identity, but source tokens that the target lacks give way to the target's attention."""
    matched = set(align(source, target))
    kept = torch.ones(length)
    kept[[i for i in range(len(source)) if i not in matched]] = 0
    return torch.eye(length), kept


def _map_padding(matrix: Tensor, kept: Tensor, source_end: int, target_end: int) -> None:
    """Padding keeps its position; where the source still has a word there, it takes the source's first padding.

    Prompt-to-Prompt's code would give the words a shorter target drops to its padding.
    """
    for j in range(target_end, len(kept)):
        matrix[min(max(j, source_end), len(kept) - 1), j], kept[j] = 1, 1


def align(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """For each target token the source token it is aligned with, by a longest common subsequence.

    Equal to a global alignment with gap 0, match 1, mismatch −1; among equals the earliest target token is matched.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, x in enumerate(source, 1):
        for j, y in enumerate(target, 1):
            best[i][j] = best[i - 1][j - 1] + 1 if x == y else max(best[i - 1][j], best[i][j - 1])
    partners: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partners[j] = i
    return partners


# Words


def word_tokens(tokenizer: Any, prompt: str, length: int) -> list[list[int]]:
    """Positions of each word's tokens in the padded prompt; position 0 is the begin mark, cut-off words have none."""
    counts = [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in prompt.split()]
    if sum(counts) != len(tokenizer(prompt, add_special_tokens=False)["input_ids"]):
        raise ValueError(f"the tokenizer does not take {prompt!r} word by word; its words cannot be located")
    starts = [1 + sum(counts[:n]) for n in range(len(counts))]
    return [
        [p for p in range(start, start + count) if p < length - 1] for start, count in zip(starts, counts, strict=True)
    ]


def find_word(tokenizer: Any, prompt: str, word: str, length: int) -> list[int]:
    """Positions of the tokens of every occurrence of ``word`` (or of each word of a phrase), whatever its case."""
    wanted = {_bare(w) for w in word.split()}
    words, tokens = prompt.split(), word_tokens(tokenizer, prompt, length)
    found = [p for w, positions in zip(words, tokens, strict=True) if _bare(w) in wanted for p in positions]
    if not found:
        raise ValueError(f"the word {word!r} is not in the prompt {prompt!r}, or past the tokens the model reads")
    return found


def _bare(word: str) -> str:
    return word.strip(string.punctuation).casefold()
