"""Pseudo-words in the formats of textual inversion: a folder with one file for the word and one for its
negative, which ends in ``-neg``.

diffusers reads safetensors whose one key is the placeholder; A1111 reads archives with ``string_to_param``.
Both are read as data alone.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.formats import proof, state_file
from vgen.formats.foreign import CARD_FILE, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

POSITIVE, NEGATIVE = "text.positive", "text.negative"
NEG = "-neg"
"""How the file of a negative word ends."""


def read_embedding(entries: Mapping[str, Any], path: Path) -> tuple[str, Tensor] | None:
    """Name and vectors n d of one file's entries, by either format; None where it is neither."""
    held = entries.get("string_to_param")
    if isinstance(held, Mapping) and isinstance(held.get("*"), Tensor):
        return str(entries.get("name") or path.stem), _rows(held["*"])
    if "emb_params" in entries:
        return path.stem, _rows(entries["emb_params"])
    if len(entries) == 1:
        name, value = next(iter(entries.items()))
        if isinstance(value, Tensor) and value.ndim in (1, 2):
            return str(name), _rows(value)
    return None


def _rows(value: Tensor) -> Tensor:
    return value.detach().float().reshape(-1, value.shape[-1])


def file_name(word: str) -> str:
    """A placeholder as the name of a file: ``<dog>`` becomes ``dog``."""
    return re.sub(r"[^\w.-]+", "_", word.strip("<>")) or "word"


class Embeddings(Foreign):
    """A folder of two embeddings."""

    folder: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]]

    def recognises(self, source: Source) -> bool:
        return len(self._files(source)) == 2

    def card(self, source: Source) -> str:
        path = source.path / CARD_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        files = self._files(source)
        if len(files) != 2 or num_positions:
            raise ValueError(
                f"from={source.named} must be a folder with two embeddings, a word's and its negative's "
                f"(NAME and NAME{NEG}), got {len(files)}"
            )
        (negative, unsaid), (word, said) = sorted(files, key=lambda one: not _negative(one[0]))
        width = _width(unet)
        for name, vectors in ((word, said), (negative, unsaid)):
            if vectors.shape[-1] != width:
                raise ValueError(
                    f"the embedding {name} of from={source.named} has {vectors.shape[-1]} numbers a vector, "
                    f"and the image model's text encoder {width}; give the image model it was learnt for"
                )
        return Imported(
            tensors={POSITIVE: said, NEGATIVE: unsaid},
            knobs={
                "words": {"word": word, "negative_word": negative},
                "num_positive": len(said),
                "num_negative": len(unsaid),
            },
            origin=f"textual inversion, {word} of {len(said)} vectors and {negative} of {len(unsaid)}",
            notes=[],
            assumed="assumed, as no file says it: trained at a guidance of 3",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {"positive vectors": knobs["num_positive"], "negative vectors": knobs["num_negative"]}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 1

    def write(self, path: Path, learnt: Learnt) -> Rows:
        path.mkdir(parents=True)
        named = learnt.knobs["words"]
        for word, key in ((named["word"], POSITIVE), (named["negative_word"], NEGATIVE)):
            self.write_one(path, word, learnt.tensors[key].detach().cpu().contiguous())
        (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        source = Source(str(path), path)
        back = self.read(source, learnt.unet, 0).tensors
        ours = {name: value.float() for name, value in learnt.tensors.items()}
        count = proof.same(ours, back, str(path))
        return [
            ("read back", f"{count} tensors, equal to the bit"),
            ("in a prompt", f"{named['word']}, and {named['negative_word']} in the negative one"),
        ]

    @abstractmethod
    def write_one(self, folder: Path, word: str, vectors: Tensor) -> None:
        """The file of one word."""

    def _files(self, source: Source) -> list[tuple[str, Tensor]]:
        if not source.is_folder:
            return []
        paths = sorted(p for p in source.path.iterdir() if p.suffix in self.suffixes)
        if len(paths) != 2:  # a positive and a negative one
            return []
        found = [read_embedding(source.file(path)[0], path) for path in paths]
        return [one for one in found if one is not None]


class DiffusersEmbedding(Embeddings):
    """As diffusers' ``load_textual_inversion`` reads it."""

    name: ClassVar[str] = "textual_inversion"
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def write_one(self, folder: Path, word: str, vectors: Tensor) -> None:
        path = folder / f"{file_name(word)}.safetensors"
        state_file.write(path, {word: vectors}, Container.SAFETENSORS)


class A1111(Embeddings):
    """As Stable Diffusion web UI reads it from its folder of embeddings."""

    name: ClassVar[str] = "a1111"
    containers: ClassVar[tuple[Container, ...]] = (Container.CKPT,)
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".bin")

    def write_one(self, folder: Path, word: str, vectors: Tensor) -> None:
        held = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": vectors.clone()},
            "name": word,
            "step": 0,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
        }
        path = folder / f"{file_name(word)}.pt"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        torch.save(held, temporary)
        os.replace(temporary, path)


def _negative(name: str) -> bool:
    return name.rstrip(">").endswith(NEG)


def _width(unet: UNet2DConditionModel) -> int:
    width = unet.config["cross_attention_dim"]
    return width if isinstance(width, int) else width[0]
