"""Edits of the toybox as a source: exact pairs, each with its instruction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vgen.data.decode import Cut
from vgen.data.ledger import Rejection
from vgen.data.sample import Sample, Video
from vgen.data.sources import Job, Source
from vgen.spec import field, spec
from vgen.toybox.edits import Edit, EditPair, edit_pair
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import GENERATOR_VERSION, TICKS, Scene, check_length
from vgen.toybox.splits import Bucket, bucket_of

BLOCK_PAIRS = 32
MOST_TRIES = 400
_TICK = 3  # a stream of its own


@spec
class ToyboxEdits(Source):
    """Pair ``i`` depends on ``(seed, i)`` and ``edits``, which take turns. What an edit makes of a thing is
    as in training: combinations that are held out stay so. ``stills`` gives one frame, drawn from the
    clip."""

    num_pairs: int = 2048
    seed: int = 0
    stills: bool = False
    edits: list[Edit] = field(default_factory=lambda: [Edit.RECOLOUR, Edit.RESHAPE, Edit.GROUND, Edit.BOTH])

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or not self.edits:
            raise ValueError(
                f"a corpus of edits needs a pair and an edit at least, got num_pairs={self.num_pairs} and "
                f"{len(self.edits)} edits"
            )
        if self.seed < 0:
            raise ValueError(f"the seed of a corpus must not be negative, got seed={self.seed}")

    def name(self) -> str:
        return "toybox-edits"

    def usual(self) -> tuple[int, Video]:
        return 64, Video.npy

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        check_length(cut.num_frames)
        return [self._job(row, cut) for row in range(-(-self.num_pairs // BLOCK_PAIRS))]

    def _job(self, row: int, cut: Cut) -> PairJob:
        start = row * BLOCK_PAIRS
        return PairJob(
            row=row,
            key=f"edits-{start:08d}",
            source=f"edits from {start} on",
            start=start,
            num_pairs=min(BLOCK_PAIRS, self.num_pairs - start),
            seed=self.seed,
            stills=self.stills,
            edits=tuple(self.edits),
            cut=cut,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJob(Job):
    """A block of pairs; the caption of each is its instruction, its field ``source`` the clip before it."""

    start: int
    num_pairs: int
    seed: int
    stills: bool
    edits: tuple[Edit, ...]
    cut: Cut
    generator: int = GENERATOR_VERSION

    def samples(self, scratch: Path) -> Iterator[Sample]:
        for i in range(self.start, self.start + self.num_pairs):
            pair = drawn_pair(i, self.seed, self.edits[i % len(self.edits)], self.cut.num_frames)
            tick = int(rng_of(self.seed, i, _TICK).integers(TICKS))
            shown = [_frame(scene, tick) if self.stills else scene for scene in (pair.scene, pair.edited)]
            before, after = (render(scene, self.cut.size_px).video for scene in shown)
            last = slice(-1, None) if self.stills else slice(None)
            facts = {
                "fps": self.cut.fps,
                "num_frames": len(after[last]),
                "source": f"toybox edits seed {self.seed}",
                "edit": pair.edit.value,
                "source_caption": pair.source,
                "target_caption": pair.target,
                "scene": pair.edited.to_dict(),
            }
            source = {"source": before[last]}
            yield Sample(f"edits-{i:08d}", after[last], pair.instruction, facts, source)


def drawn_pair(i: int, seed: int, edit: Edit, num_frames: int = TICKS) -> EditPair:
    """The ``i``-th pair of a corpus. Raises AssertionError where no scene serves, which never was."""
    mix = Mix(two_things=1.0) if edit is Edit.BOTH else Mix()
    for attempt in range(MOST_TRIES):
        rng = rng_of(seed, i, attempt)
        scene = replace(sample(rng, Family.CORE, mix), num_frames=num_frames, seed=i)
        pair = edit_pair(scene, edit, int(rng.integers(2**31)))
        if all(bucket_of(pair.edited.things[k]) is Bucket.IID for k in pair.changed):
            return pair
    raise AssertionError(f"no {edit.value} in {MOST_TRIES} scenes")


def _frame(scene: Scene, tick: int) -> Scene:
    """A scene whose last frame is the one at ``tick``."""
    if not tick:
        return replace(scene, num_frames=1, stride_ticks=1)
    return replace(scene, num_frames=2, stride_ticks=tick)
