"""Two sets of clips in one training: those of a subject, and beside each batch as many of its prior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from vgen.data.cache import LatentCache
from vgen.data.clips import Batches, Clip, Clips

PRIOR = "prior"
"""The field, b bool, that says which clips of a batch are of the prior."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Both sets end to end, the subject's first; a data set over ``(epoch, index)``. Ids of the prior begin
    with ``prior/``, so that no two clips share random numbers."""

    subject: Clips | LatentCache
    prior: Clips | LatentCache

    def __len__(self) -> int:
        return len(self.subject) + len(self.prior)

    def __getitem__(self, at: tuple[int, int]) -> Clip:
        epoch, index = at
        if index < len(self.subject):
            return _marked(self.subject[epoch, index], False)
        clip = self.prior[epoch, index - len(self.subject)]
        sample_id, epoch = clip.key
        return _marked(replace(clip, key=(f"{PRIOR}/{sample_id}", epoch)), True)


def _marked(clip: Clip, is_prior: bool) -> Clip:
    return replace(clip, fields={**clip.fields, PRIOR: np.array(is_prior)})


@dataclass(frozen=True, slots=True)
class MixedBatches:
    """Every batch of the subject, and behind it one of the prior, whose indices begin at ``num_subject``.
    Each set is drawn in a stateless order of its own."""

    subject: Batches
    prior: Batches
    num_subject: int

    def __len__(self) -> int:
        return len(self.subject)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for own, known in zip(self.subject, self.prior, strict=True):
            yield [*own, *((epoch, self.num_subject + index) for epoch, index in known)]


def refuse_other_size(subject: Clip, prior: Clip, path: str) -> None:
    """Raises ValueError where clips of the prior, which are from ``path``, can't stand in one batch with the
    subject's."""
    own, known = subject.video, prior.video
    if own is None or known is None or own.shape == known.shape:
        return
    sizes = [f"{len(x)} frames of {x.shape[3]} x {x.shape[2]} px" for x in (known, own)]
    raise ValueError(
        f"clips of data.prior_path={path} have {sizes[0]}, the subject's {sizes[1]}; prepare them with "
        f"size_px={own.shape[2]}"
    )
