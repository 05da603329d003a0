"""The toybox as a source: scenes rendered by the workers, a block of them per row; and other captions of its
clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vgen.data.clips import Clip
from vgen.data.decode import Cut
from vgen.data.ledger import Rejection
from vgen.data.sample import Sample, Video
from vgen.data.sources import Job, Source
from vgen.spec import field, spec
from vgen.toybox.captions import caption
from vgen.toybox.contrast import distractors, paraphrase
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.sampling import Mix, rng_of, scene_at
from vgen.toybox.scenes import GENERATOR_VERSION, TICKS, Scene, check_length

BLOCK_CLIPS = 32
_CAPTION, _TICK = 1, 2  # independent streams of one (seed, scene)


@spec
class ToyboxSource(Source):
    """The miniature world (docs: toybox). Clip ``i`` depends on ``(seed, i)`` and the mix alone.

    ``stills`` gives one frame, drawn from the clip.
    """

    num_clips: int = 2048
    seed: int = 0
    stills: bool = False
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"a corpus needs at least one clip, got num_clips={self.num_clips}")
        if self.seed < 0:
            raise ValueError(f"the seed of a corpus must not be negative, got seed={self.seed}")

    def name(self) -> str:
        return "toybox-stills" if self.stills else "toybox"

    def knows(self) -> tuple[str, ...]:
        return tuple(_TRUTHS)

    def usual(self) -> tuple[int, Video]:
        return 64, Video.npy  # small, and the oracle wants every pixel

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        check_length(cut.num_frames)
        starts = range(0, self.num_clips, BLOCK_CLIPS)
        return [
            self._job(row, start, min(BLOCK_CLIPS, self.num_clips - start), cut)
            for row, start in enumerate(starts)
        ]

    def _job(self, row: int, start: int, num_clips: int, cut: Cut) -> SceneJob:
        name = f"scenes {start}-{start + num_clips - 1}"
        return SceneJob(
            row=row,
            key=f"toybox-{start:08d}",
            source=name,
            start=start,
            num_clips=num_clips,
            seed=self.seed,
            stills=self.stills,
            mix=self.mix,
            cut=cut,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob(Job):
    start: int
    num_clips: int
    seed: int
    stills: bool
    mix: Mix
    cut: Cut
    generator: int = GENERATOR_VERSION

    def samples(self, scratch: Path) -> Iterator[Sample]:
        for i in range(self.start, self.start + self.num_clips):
            scene = scene_at(i, self.seed, self.mix, self.cut.num_frames)
            facts: dict[str, Any] = {
                "fps": self.cut.fps,
                "num_frames": 1 if self.stills else scene.num_frames,
                "source": f"toybox seed {self.seed}",
            }
            shown = scene
            if self.stills:
                facts["tick"] = tick = int(rng_of(self.seed, i, _TICK).integers(TICKS))
                shown = _two_frames(scene, tick)
            video = _rendered(shown, self.cut.size_px).video[-1 if self.stills else 0 :]
            text = caption(scene, rng_of(self.seed, i, _CAPTION)).text
            yield Sample(f"toybox-{i:08d}", video, text, {**facts, "scene": scene.to_dict()})

    def truth(self, sample: Sample, name: str) -> np.ndarray | None:
        if name not in _TRUTHS:
            return None
        array = _TRUTHS[name](_drawn(sample.metadata, self.cut.size_px))
        return array[-1:] if self.stills else array


def _edges(drawn: Rendered) -> np.ndarray:
    return drawn.edges()


def _flow(drawn: Rendered) -> np.ndarray:
    return drawn.flow()


def _mask(drawn: Rendered) -> np.ndarray:
    return ((drawn.masks.max(1, initial=0) > 0.5) * 255).astype(np.uint8)


def _depth(drawn: Rendered) -> np.ndarray:
    """float32 f h w: 1 is the ground, and of n things each lies 1 / (n + 1) nearer than the one before."""
    num = drawn.masks.shape[1]
    if not num:
        return np.ones(drawn.video.shape[:3], np.float32)
    nearer = (drawn.masks.argmax(1) + 1) / (num + 1)
    return np.where(drawn.masks.max(1) > 0.5, 1 - nearer, 1).astype(np.float32)


def _pose(drawn: Rendered) -> np.ndarray:
    """float32 f p 17 3 of the puppets; of no people where there is none."""
    there = np.isfinite(drawn.keypoints).all((1, 2, 3))
    joints = drawn.keypoints[there].swapaxes(0, 1)  # f p 17 2
    sure = np.ones((*joints.shape[:3], 1))
    return np.concatenate([joints, sure], -1).astype(np.float32)


_TRUTHS: dict[str, Callable[[Rendered], np.ndarray]] = {
    "edges": _edges,
    "mask": _mask,
    "depth": _depth,
    "flow": _flow,
    "pose": _pose,
}


def paraphrased(clips: Sequence[Clip]) -> list[str]:
    """For each clip another caption of its scene. Raises ValueError where a clip carries no scene."""
    return [paraphrase(clip.metadata, clip.key) for clip in clips]


def wrong_in_one_fact(clips: Sequence[Clip], num: int) -> list[dict[str, str]]:
    """For each clip up to ``num`` captions that are wrong in one fact, by the kind of fact; an empty list
    where none are asked for."""
    return [distractors(clip.caption, clip.key, num) for clip in clips] if num else []


def _drawn(metadata: dict[str, Any], size_px: int) -> Rendered:
    """The scene of a sample again, up to its tick where the sample is a still."""
    scene = Scene.from_dict(metadata["scene"])
    return _rendered(_two_frames(scene, metadata["tick"]) if "tick" in metadata else scene, size_px)


@lru_cache(maxsize=1)
def _rendered(scene: Scene, size_px: int) -> Rendered:
    """Kept until the next scene: its fields are read off the same picture."""
    return render(scene, size_px)


def _two_frames(scene: Scene, tick: int) -> Scene:
    """A scene whose last frame is the one at ``tick``; what lies between is not drawn."""
    return (
        replace(scene, num_frames=2, stride_ticks=tick)
        if tick
        else replace(scene, num_frames=1, stride_ticks=1)
    )
