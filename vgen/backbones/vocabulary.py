"""A CLIP tokenizer with words of its own: one token for each of them, letters for anything else."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_START, _END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = [*string.ascii_lowercase, *string.digits, *",.!?'\"-:;()/"]


def merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token (Sennrich et al. 2016, alg. 1); ties go to the
    alphabetically first pair, so that the tokenizer is the same on every machine (the trainer of the
    tokenizers library is not deterministic)."""
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    out: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        out.append(best)
        split = [_merged(parts, best) for parts in split]
    return out


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write_tokenizer(folder: Path, words: Sequence[str], num_tokens: int) -> None:
    """Write ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json`` for
    :class:`transformers.CLIPTokenizer`. Words are of letters alone: CLIP splits at hyphens."""
    learnt = merges(words)
    symbols = [
        *_LETTERS,
        *(letter + "</w>" for letter in _LETTERS),
        *dict.fromkeys(a + b for a, b in learnt),
        _START,
        _END,
    ]
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(symbols)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in learnt)]) + "\n")
    config = {
        "model_max_length": num_tokens,
        "bos_token": _START,
        "eos_token": _END,
        "pad_token": _END,
        "unk_token": _END,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
