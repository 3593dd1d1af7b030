"""A small tokenizer and text encoder in the CLIP layout, made from nothing but a list of words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE (GPT-2, CLIP) spells every text with."""
    keep = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(len(moved))]


def frequent_words(captions: Iterable[str], least: int) -> list[str]:
    """Words that occur at least ``least`` times, the most frequent first."""
    counts = Counter(word for caption in captions for word in re.findall(r"[a-z]+", caption.lower()))
    return [word for word, count in counts.most_common() if count >= least]


def build_tokenizer(words: Iterable[str], max_length: int, folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of ``words`` is one token and any other text is spelled out in bytes."""
    alphabet = byte_alphabet()
    tokens = alphabet + [a + "</w>" for a in alphabet]
    known, merges = set(tokens), []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # merge from the left: h a z e</w> -> ha z e</w> -> haz e</w> -> haze</w>
            merged = pieces[0] + pieces[1]
            if merged not in known:
                known.add(merged)
                tokens.append(merged)
                merges.append(f"{pieces[0]} {pieces[1]}")
            pieces = [merged, *pieces[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate([*tokens, BOS, EOS])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    """A CLIP text transformer with fresh weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Padded token ids (B, L)."""
    encoded = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return torch.tensor(encoded["input_ids"])
