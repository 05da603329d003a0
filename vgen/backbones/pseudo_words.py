"""Words that are learnt: vectors in the place of a text encoder's token embeddings (Gal et al. 2022, section
3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPPreTrainedModel, CLIPTokenizer

from vgen.backbones.image_model import ImageModel

SPREAD = 1e-3
"""Of the noise on the negative word's first vectors."""


class PseudoWords(nn.Module):
    """``positive`` n d and ``negative`` m d: what is said of a subject, and what is not."""

    def __init__(self, start: Tensor, num_positive: int, num_negative: int) -> None:
        super().__init__()
        self.positive = nn.Parameter(_repeated(start, num_positive))
        draw = torch.Generator().manual_seed(0)
        first = _repeated(start, num_negative)
        noise = torch.randn(first.shape, generator=draw) if not first.is_meta else first
        self.negative = nn.Parameter(first + SPREAD * noise.to(first))


def _repeated(start: Tensor, num: int) -> Tensor:
    """``num`` rows from those of ``start``, evenly."""
    at = [i * len(start) // num for i in range(num)]
    return start.detach().float()[at].clone()


def born(model: ImageModel, init: str, num_positive: int, num_negative: int) -> PseudoWords:
    """Words that begin as the tokens of ``init``. Raises ValueError for an image model with two text
    encoders."""
    if not model.text_encoders:  # shapes alone
        width = model.unet.config["cross_attention_dim"]
        return PseudoWords(torch.empty(1, width), num_positive, num_negative)
    encoder = only_encoder(model)
    ids = model.tokenizer(init, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(f"init={init!r} is no word; give one that the text encoder knows, as init=dog")
    table = cast(nn.Embedding, encoder.get_input_embeddings()).weight
    return PseudoWords(table[ids], num_positive, num_negative)


def only_encoder(model: ImageModel) -> CLIPPreTrainedModel:
    """The one text encoder. Raises ValueError where there are two."""
    if len(model.text_encoders) != 1:
        raise ValueError(
            f"image model {model.source} has {len(model.text_encoders)} text encoders, and a pseudo-word is "
            "learnt for one; give a Stable Diffusion 1.x or 2.x"
        )
    return model.text_encoders[0]


def refuse_known(tokenizer: CLIPTokenizer, words: tuple[str, ...]) -> None:
    """Raises ValueError for a placeholder that is a token already."""
    known = [
        word for word in words if word in tokenizer.get_vocab() or f"{word}</w>" in tokenizer.get_vocab()
    ]
    if known:
        raise ValueError(
            f"word={known[0]} is a word that the text encoder knows already; give another, as <subject>"
        )


def spoken(model: ImageModel, prompts: list[str], words: Mapping[str, Tensor]) -> Tensor:
    """Prompts, in which ``words`` may stand, to the text encoder's last states, b n d; with gradient to the
    words' vectors."""
    encoder = only_encoder(model)
    ids, at = _placed(model.tokenizer, prompts, words)
    vectors = torch.cat([*words.values()]).to(encoder.device)

    def replaced(_module: nn.Module, _given: Any, out: Tensor) -> Tensor:
        where = (at >= 0).to(out.device)[..., None]
        mine = vectors[at.clamp(min=0).to(out.device)].to(out.dtype)
        return torch.where(where, mine, out)

    handle = encoder.get_input_embeddings().register_forward_hook(replaced)
    try:
        return encoder(ids.to(encoder.device)).last_hidden_state
    finally:
        handle.remove()


def _placed(
    tokenizer: CLIPTokenizer, prompts: list[str], words: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Token ids b n, and which row of the words' vectors stands at each place, -1 for none."""
    rows: dict[str, range] = {}
    for word, vectors in words.items():
        first = sum(len(taken) for taken in rows.values())
        rows[word] = range(first, first + len(vectors))
    longest_first = sorted(rows, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
    ids, at = zip(*(_one(tokenizer, prompt, pattern, rows) for prompt in prompts), strict=True)
    return torch.tensor(ids), torch.tensor(at)


def _one(
    tokenizer: CLIPTokenizer, prompt: str, pattern: re.Pattern[str], rows: Mapping[str, range]
) -> tuple[list[int], list[int]]:
    """One prompt; what is too long is cut before the end mark."""
    ids: list[int] = []
    at: list[int] = []
    for part in pattern.split(prompt):
        own = [tokenizer.unk_token_id] * len(rows[part]) if part in rows else _tokens(tokenizer, part)
        ids += own
        at += rows[part] if part in rows else [-1] * len(own)
    room = tokenizer.model_max_length - 2
    ids = [tokenizer.bos_token_id, *ids[:room], tokenizer.eos_token_id]
    missing = tokenizer.model_max_length - len(ids)
    return ids + [tokenizer.pad_token_id] * missing, [-1, *at[:room], -1, *[-1] * missing]


def _tokens(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text.strip() else []
