"""A CLIP tokenizer whose words are those of the toybox captions: one token a word, letters for anything else."""
from __future__ import annotations

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from vgen.toybox.captions import vocabulary

_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, num_tokens: int) -> None:
    """Write ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json`` for :class:`transformers.CLIPTokenizer`."""
    letters = [*string.ascii_lowercase, *string.digits, *",.!?'\"-:;()/"]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=letters, special_tokens=[_START, _END], show_progress=False
    )
    tokenizer.train_from_iterator([*vocabulary(), *letters], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    table = dict(model["vocab"])
    for letter in letters:
        table.setdefault(letter + "</w>", len(table))
    (folder / "vocab.json").write_text(json.dumps(table, ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {"model_max_length": num_tokens, "bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
