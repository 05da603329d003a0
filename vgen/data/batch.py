"""What the loader gives to an objective, and what a frozen encoder makes of it once for all epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vgen.backbones.conditioning import Prepared
from vgen.backbones.image_model import Context


@dataclass(slots=True, init=False)
class Batch:
    """What the loader gives.

    - ``keys`` are (sample id, epoch); ``captions`` are empty where there are none.
    - ``fields`` are tensors by name, each b first, then f where it has a frame axis: ``video`` uint8
      b f 3 H W, or cached ``latents`` b f c h w with ``text`` b n d and perhaps ``pooled`` b d in its place,
      and what else was read or prepared. ``present`` b bool says of optional ones which clips have them; the
      rows of the others are 0 (pose: nan). A field that is not named there is whole.
    - ``rates`` b are the frames per second of the stored samples, None where one of them does not say.
    - ``at`` int64 b f are the numbers of the frames in the stored samples.
    - ``paraphrases`` say the same in other words, ``distractors`` are wrong in one fact, by its kind.
    """

    keys: Sequence[tuple[str, int]]
    captions: list[str]
    fields: dict[str, Tensor]
    at: Tensor | None
    rates: Tensor | None
    paraphrases: list[str]
    distractors: list[dict[str, str]]
    present: dict[str, Tensor]

    def __init__(
        self,
        keys: Sequence[tuple[str, int]],
        captions: list[str],
        video: Tensor | None = None,
        latents: Tensor | None = None,
        context: Context | None = None,
        paraphrases: Sequence[str] = (),
        distractors: Sequence[dict[str, str]] = (),
        fields: Mapping[str, Tensor] | None = None,
        at: Tensor | None = None,
    ) -> None:
        self.keys, self.captions, self.at, self.rates = keys, captions, at, None
        self.paraphrases, self.distractors = list(paraphrases), list(distractors)
        self.fields, self.present = dict(fields or {}), {}
        if video is not None:
            self.video = video
        if latents is not None:
            self.latents = latents
        if context is not None:
            self.context = context

    @property
    def video(self) -> Tensor | None:
        return self.fields.get("video")

    @video.setter
    def video(self, value: Tensor | None) -> None:
        self._put("video", value)

    @property
    def latents(self) -> Tensor | None:
        return self.fields.get("latents")

    @latents.setter
    def latents(self, value: Tensor | None) -> None:
        self._put("latents", value)

    @property
    def context(self) -> Context | None:
        """The encoded text, where it was encoded."""
        return Context(self.fields["text"], self.fields.get("pooled")) if "text" in self.fields else None

    @context.setter
    def context(self, value: Context | None) -> None:
        self._put("text", None if value is None else value.tokens)
        self._put("pooled", None if value is None else value.pooled)

    def fields_by_name(self) -> dict[str, Any]:
        """What a model listens to: captions, and the fields."""
        return {"caption": self.captions, **self.fields}

    def pixels(self, device: torch.device) -> Tensor:
        """b f 3 H W in [-1, 1], float32."""
        if self.video is None:
            raise ValueError(
                "this objective needs pixels but the data is a latent cache; set data.cache=false"
            )
        return self.video.to(device).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)

    def _put(self, name: str, value: Tensor | None) -> None:
        if value is None:
            self.fields.pop(name, None)
        else:
            self.fields[name] = value


class Encoder(Protocol):
    """Frozen networks whose outputs a cache keeps."""

    def fingerprint(self) -> str:
        """Changes with whatever changes an output."""

    def prepare(self, fields: dict[str, Any], device: torch.device) -> Prepared:
        """``fields`` of clips of one shape: ``video`` uint8 b f 3 H W, ``caption`` a list of texts, others
        tensors with axes b ...; the same names out for the same names in."""
