"""What a training of a subject asks of its pictures: enough of them, an identifier in their captions, and
pictures of the subject's class beside them (Ruiz et al. 2022, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vgen.data.clips import Clips
from vgen.data.fields import Needs
from vgen.data.sample import Sample

_CAPTION = Needs(required=frozenset(), optional=frozenset({"caption"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """``least`` pictures or more, whose captions say ``identifier`` (empty: whatever they say), and, with
    ``prior``, pictures of the class, whose captions do not."""

    least: int = 1
    identifier: str = ""
    prior: bool = False

    def refuse_unfit(self, clips: Clips, named: str) -> None:
        """Raises ValueError where pictures are too few, or lack the identifier. ``named`` says where they
        are from, as data.images=FOLDER."""
        if self.least <= 1 and not self.identifier:
            return
        samples = _samples(clips)
        sources = {str(sample.metadata.get("source", sample.id)) for sample in samples}
        if len(sources) < self.least:
            pictures = "1 picture" if len(sources) == 1 else f"{len(sources)} pictures"
            raise ValueError(
                f"{named} has {pictures}, and a subject is learnt from {self.least} or more, from several "
                f"sides; add pictures, or set method.least_pictures={len(sources)}"
            )
        lacking = [text for text in _captions(samples) if self.identifier not in text]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(samples)} captions of {named} lack the identifier "
                f"{self.identifier!r} (first: {lacking[0]!r}); say it in them, as "
                f'data.prompt="a photo of {self.identifier} dog"'
            )

    def refuse_unfit_prior(self, clips: Clips, named: str) -> None:
        """Raises ValueError where pictures of the class say the identifier."""
        if not self.identifier:
            return
        said = [text for text in _captions(_samples(clips)) if self.identifier in text]
        if said:
            raise ValueError(
                f"{len(said)} captions of the class pictures of {named} say the identifier "
                f"{self.identifier!r} (first: {said[0]!r}), and would teach that it means any of the class; "
                "draw them with the class alone"
            )

    def refuse_prior(self, path: str | None) -> None:
        """Raises ValueError where pictures of the class are wanted and not given, or given and not read."""
        if self.prior and not path:
            raise ValueError(
                "prior preservation reads pictures of the subject's class, and data.prior_path names none; "
                'draw them once with \'vgen prepare data=class_images data.prompt="a photo of a dog" '
                "out=FOLDER' and give data.prior_path=FOLDER, or set method.prior_weight=0"
            )
        if path and not self.prior:
            raise ValueError(
                f"data.prior_path={path} is given and nothing here preserves a prior; leave it out, or set "
                "method.prior_weight=1 where the method has it"
            )


def _samples(clips: Clips) -> list[Sample]:
    reader = clips.reader.reading(_CAPTION)
    return [reader[row] for row in clips.rows]


def _captions(samples: Sequence[Sample]) -> list[str]:
    return [sample.caption or "" for sample in samples]
