"""How a latent cache is written: every process of a run encodes a part of the clips, each part whole or not
there."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgen.backbones.conditioning import Prepared
from vgen.data.batch import Encoder
from vgen.data.clips import Clips
from vgen.data.encoder import pixels_at_once
from vgen.data.fields import FIELDS, VIDEO, Needs
from vgen.data.leftovers import remove_abandoned
from vgen.data.leftovers import temporary as temporary_of
from vgen.data.npy import GrowingArray
from vgen.data.sample import Sample

log = logging.getLogger(__name__)
_TELL_EVERY_SECONDS = 15.0
_LOOK_EVERY_SECONDS = 1.0
FACTS = "facts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builders:
    """Process ``rank`` of ``num`` that write one cache together, each on its ``device``.

    ``wait_seconds`` is how long one of them waits for what the others write.
    """

    device: torch.device
    rank: int = 0
    num: int = 1
    wait_seconds: float = 3600.0


def part_name(i: int) -> str:
    return f"part-{i:05d}"


def build(folder: Path, clips: Clips, encoder: Encoder, builders: Builders) -> None:
    """Writes the cache ``folder``, together with the other processes, and returns when it is whole.

    Each process encodes a run of the rows into a part beside ``folder``, by a temporary folder and a rename.
    A part that is there is not encoded again. Process 0 renames the folder of parts when all are there.
    """
    for gone in remove_abandoned(folder.parent):
        log.info("removed %s, which a process that is gone left unfinished", gone)
    num = min(builders.num, len(clips.rows))
    parts = folder.with_name(f"{folder.name}.of-{num}")
    parts.mkdir(parents=True, exist_ok=True)
    if builders.rank < num and not (parts / part_name(builders.rank)).is_dir():
        _write_part(parts, builders.rank, num, clips, encoder, builders.device)
    if builders.rank == 0:
        _finish(folder, parts, num, builders)
    else:
        _await(folder / FACTS, builders, "rank 0")


def _finish(folder: Path, parts: Path, num: int, builders: Builders) -> None:
    for i in range(num):
        _await(parts / part_name(i) / FACTS, builders, f"rank {i}")
    for gone in remove_abandoned(parts):
        log.info("removed %s, which a process that is gone left unfinished", gone)
    _refuse_unlike(parts, num)
    (parts / FACTS).write_text(json.dumps({"parts": num}))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(parts, folder)
    for other in folder.parent.glob(f"{folder.name}.of-*"):  # of a run of other processes that was killed
        shutil.rmtree(other, ignore_errors=True)


def _refuse_unlike(parts: Path, num: int) -> None:
    found = [json.loads((parts / part_name(i) / FACTS).read_text())["arrays"] for i in range(num)]
    for i, names in enumerate(found):
        if set(names) != set(found[0]):
            shutil.rmtree(parts)
            raise ValueError(
                f"clips of rank {i} were prepared as {', '.join(names)} where those of rank 0 were as "
                f"{', '.join(found[0])}; require of every sample what is prepared, or set data.cache=false"
            )


def _await(path: Path, builders: Builders, writer: str) -> None:
    end = time.monotonic() + builders.wait_seconds
    while not path.is_file():
        if time.monotonic() > end:
            raise ValueError(
                f"latent cache {path.parent} was to be written by {writer} and is not there after "
                f"{builders.wait_seconds / 60:.0f} min; set data.cache_dir to a folder that all ranks share, "
                "or build the cache first with a run of one process"
            )
        time.sleep(min(_LOOK_EVERY_SECONDS, builders.wait_seconds / 10))


@torch.no_grad()
def _write_part(parts: Path, i: int, num: int, clips: Clips, encoder: Encoder, device: torch.device) -> None:
    """Encodes the ``i``-th of ``num`` runs of rows."""
    start, end = (len(clips.rows) * edge // num for edge in (i, i + 1))
    rows = clips.rows[start:end]
    final = parts / part_name(i)
    temporary = temporary_of(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    written = _Written()
    with ExitStack() as files:
        arrays = _Arrays(temporary, files)
        progress = _Progress(len(rows))
        for samples in _groups(clips, rows, pixels_at_once(device)):
            prepared = encoder.prepare(_stacked(samples, clips.needs), device)
            arrays.append(prepared, samples[0].id)
            written.add(samples, prepared)
            progress.tell(len(written.ids))
    facts = written.facts() | {"arrays": list(arrays.open)}
    (temporary / FACTS).write_text(json.dumps(facts))
    os.replace(temporary, final)


class _Written:
    """What a part holds, sample by sample."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.captions: list[str] = []
        self.starts = [0]
        self.frames: list[str] = []
        self.rates: list[Any] = []

    def add(self, samples: list[Sample], prepared: Prepared) -> None:
        self.ids += [s.id for s in samples]
        self.captions += [s.caption or "" for s in samples]
        ends = np.cumsum([s.num_frames for s in samples])
        self.starts += (self.starts[-1] + ends).tolist()
        self.frames = list(prepared.frames)
        self.rates += [s.metadata.get("fps") for s in samples]

    def facts(self) -> dict[str, Any]:
        return {
            "ids": self.ids,
            "captions": self.captions,
            "starts": self.starts,
            "frames": self.frames,
            "rates": self.rates,
        }


class _Arrays:
    """The growing arrays of a part, by name; the first samples say which there are."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self.folder, self.files = folder, files
        self.open: dict[str, GrowingArray] = {}

    def append(self, prepared: Prepared, sample_id: str) -> None:
        names = [*prepared.frames, *prepared.clip]
        if self.open and set(names) != set(self.open):
            raise ValueError(
                f"sample {sample_id!r} was prepared as {', '.join(names)} where those before it were as "
                f"{', '.join(self.open)}; require of every sample what is prepared, or set data.cache=false"
            )
        for name, rows in _rows(prepared):
            if name not in self.open:
                self.open[name] = self.files.enter_context(GrowingArray(self.folder / f"{name}.npy"))
            self.open[name].append(rows)


class _Progress:
    """Says now and then how far a part is."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.began = self.told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now - self.told < _TELL_EVERY_SECONDS:
            return
        self.told = now
        left = (now - self.began) / done * (self.num_rows - done)
        log.info(
            "encoding clips, once for all epochs: %d of %d, %.1f min left", done, self.num_rows, left / 60
        )


def _groups(clips: Clips, wanted: Sequence[int], most_pixels: int) -> Iterator[list[Sample]]:
    """Samples of the ``wanted`` rows, of one shape, by what is encoded together, so that memory is bounded:
    long clips come one by one, stills together."""
    group: list[Sample] = []
    num_pixels = 0
    for row in wanted:
        sample = clips.reader[row]
        if group and (num_pixels >= most_pixels or _shapes(group[0]) != _shapes(sample)):
            yield group
            group, num_pixels = [], 0
        group.append(sample)
        num_pixels += max(math.prod(shape[:3]) for shape in [*_shapes(sample).values(), (1,)])
    if group:
        yield group


def _arrays(sample: Sample) -> dict[str, np.ndarray]:
    return sample.fields if sample.video is None else {"video": sample.video, **sample.fields}


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in _arrays(sample).items()}


def _stacked(samples: list[Sample], needs: Needs) -> dict[str, Any]:
    """Fields of clips of one shape as an encoder takes them: b ... each, pictures with channels as
    b f c h w."""
    out: dict[str, Any] = {}
    for name in _arrays(samples[0]):
        kind = VIDEO if name == "video" else FIELDS[name]
        arrays = [kind.over(_arrays(s)[name], s.num_frames) for s in samples]
        out[name] = torch.from_numpy(np.stack([kind.channels_first(array) for array in arrays]))
    if "caption" in needs.names:
        out["caption"] = [s.caption or "" for s in samples]
    return out


def _rows(prepared: Prepared) -> Iterator[tuple[str, np.ndarray]]:
    """Rows for the arrays of a cache, by name: of all frames of the clips, or of the clips."""
    for name, values in [(n, v.flatten(0, 1)) for n, v in prepared.frames.items()] + [*prepared.clip.items()]:
        yield name, (values.half() if values.is_floating_point() else values).cpu().numpy()
