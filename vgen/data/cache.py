"""What frozen encoders make of fields (latents and text embeddings), computed once. A cache carries a
fingerprint and is refused where it does not fit."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from vgen.data.batch import Encoder
from vgen.data.cache_building import FACTS, Builders, build, part_name
from vgen.data.clips import Clip, Clips, clip_rng, numbers, per_frame, windowed
from vgen.data.fields import FIELDS, Needs


@dataclass(frozen=True, slots=True)
class _Part:
    """What one process wrote: the arrays by name. Those of ``frames`` hold clips end to end, whose
    borders are ``starts``. ``rates`` are the frames per second of the stored samples, None where one does
    not say."""

    ids: list[str]
    captions: list[str]
    starts: list[int]
    frames: frozenset[str]
    rates: list[float | None]
    arrays: dict[str, np.ndarray]

    @staticmethod
    def opened(folder: Path) -> _Part:
        facts = json.loads((folder / FACTS).read_text())
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in facts["arrays"]
        }
        frames = frozenset(facts.get("frames", ["latents"]))
        rates = facts.get("rates") or [None] * len(facts["ids"])
        return _Part(facts["ids"], facts["captions"], facts["starts"], frames, rates, arrays)

    def num_frames(self, i: int) -> int:
        return self.starts[i + 1] - self.starts[i]

    def cut(self, i: int, frames: slice) -> dict[str, np.ndarray]:
        """The arrays of clip ``i``, those of frames cut to ``frames``."""
        clip = slice(self.starts[i], self.starts[i + 1])
        return {
            name: np.array(array[clip][frames] if name in self.frames else array[i])
            for name, array in self.arrays.items()
        }


class LatentCache:
    """A split's clips as arrays in one folder, which an encoder prepared: those of frames (all stored ones,
    clips end to end), such as ``latents``, and those of clips, such as ``text``; float16 what is real.

    Windows are cut from the cached frames, so that one cache serves every epoch; mirrored clips cannot come
    from it. Fields that were needed and that the encoder left as they are come from the shards.
    """

    def __init__(self, folder: Path, clips: Clips) -> None:
        self.folder, self.window, self.seed, self.rows = folder, clips.window, clips.seed, clips.rows
        num = json.loads((folder / FACTS).read_text()).get("parts")
        inside = [folder] if num is None else [folder / part_name(i) for i in range(num)]
        self.parts = [_Part.opened(part) for part in inside]
        self.ends = list(accumulate(len(part.ids) for part in self.parts))
        kept = frozenset(FIELDS) - set(self.parts[0].arrays)
        self.raw = Needs(clips.needs.required & kept, clips.needs.optional & kept)
        self.reader = clips.reader.reading(self.raw)

    def __len__(self) -> int:
        return self.ends[-1]

    def ids(self) -> list[str]:
        return [id_ for part in self.parts for id_ in part.ids]

    def __getitem__(self, at: tuple[int, int]) -> Clip:
        epoch, index = at
        which = bisect_right(self.ends, index)
        part = self.parts[which]
        inside = index - (self.ends[which - 1] if which else 0)
        sample_id, num_frames = part.ids[inside], part.num_frames(inside)
        frames = slice(0, 0, 1)
        if num_frames:
            rng = clip_rng(self.seed, sample_id, epoch)
            frames, _ = self.window.cut(num_frames, f"cached sample {sample_id!r}", rng)
        raw = self.reader[self.rows[index]].fields if self.raw.names else {}
        return Clip(
            (sample_id, epoch),
            part.captions[inside],
            {"fps": part.rates[inside]},
            at=numbers(frames),
            fields=windowed(raw, frames, mirror=False) | part.cut(inside, frames),
            per_frame=per_frame(raw) | part.frames,
        )

    @staticmethod
    def open_or_build(
        root: Path, name: str, clips: Clips, encoder: Encoder, builders: Builders
    ) -> LatentCache:
        """The cache of ``clips`` under ``root``; written to a temporary folder and renamed, so a killed run
        leaves none that looks whole. Processes that srun or torchrun started together write it together."""
        if clips.window.flip:
            raise ValueError(
                "data.window.flip cannot be used with data.cache: cached latents hold one orientation; turn "
                "one of them off"
            )
        facts = [encoder.fingerprint(), clips.reader.content_hash, list(clips.rows), 1]
        if clips.needs != Needs():  # what every cache held before there were others has the name it had
            facts.append(clips.needs.names)
        key = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
        folder = root / f"{name}-{key}"
        if not (folder / FACTS).is_file():
            build(folder, clips, encoder, builders)
        return LatentCache(folder, clips)
