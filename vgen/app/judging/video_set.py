"""A folder of videos that any other tool made, as a sampler: each task of a suite finds its clip by name or
by caption."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageSequence, UnidentifiedImageError

from vgen.app.judging.cards import one_clip_twice, prompts_of
from vgen.app.refusals import listed
from vgen.data.bounded import opened, read_npy
from vgen.data.files import lines_of
from vgen.data.mp4 import MAX_BYTES, decode_mp4
from vgen.data.one_clip import as_rgb
from vgen.metrics.suite import Task

KINDS = (".mp4", ".gif", ".npy")
LISTINGS = ("prompts.jsonl", "prompts.csv", "prompts.txt")
_PICTURES = (".png",)
_FEW = 3
_UNEVEN = 0.15  # of a frame
_HUNDREDTH_MS = 10  # what a GIF counts its durations in


@dataclass(frozen=True, slots=True)
class VideoSet:
    """Clips by task id. ``digest`` changes when any file does."""

    folder: Path
    clips: dict[str, Path]
    digest: str

    def sampler(self, todo: Sequence[Task]) -> np.ndarray:
        return np.stack([read_video(self.clips[task.id], task.scene.num_frames) for task in todo])

    def identity(self) -> dict[str, Any]:
        kinds = Counter(path.suffix or "png folder" for path in self.clips.values())
        return {
            "videos": str(self.folder),
            "sha256": self.digest,
            "decoded_from": dict(sorted(kinds.items())),
        }


def open_videos(folder: str, prompts: str, todo: Sequence[Task]) -> VideoSet:
    """Every task with exactly one clip, all sound, of one size and of the right length; else a ValueError."""
    root, files = _opened(folder)
    found = _by_task(root, files, prompts, todo)
    _check(found, todo)
    return VideoSet(root, found, _digest(root, found.values()))


def _opened(folder: str) -> tuple[Path, dict[str, Path]]:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"videos={folder} is no folder; give a folder of mp4, gif or npy files or of folders of png "
            "frames"
        )
    files = _files(root)
    if not files:
        raise ValueError(
            f"videos={folder} holds no video; it must hold mp4, gif or npy files (uint8 f h w 3) or folders "
            "of png frames"
        )
    return root, files


def _files(root: Path) -> dict[str, Path]:
    """Videos by name without its ending; of an mp4 and a GIF that are one clip by their cards, the mp4."""
    files = [
        p
        for p in sorted(root.iterdir())
        if p.suffix.lower() in KINDS or (p.is_dir() and any(p.glob("*.png")))
    ]
    files = _without_doubles(files)
    twice = [name for name, num in Counter(p.stem.casefold() for p in files).items() if num > 1]
    if twice:
        raise ValueError(
            f"videos={root} holds two videos of the same name for {listed(twice)}; keep one of each"
        )
    return {p.stem if p.suffix.lower() in KINDS else p.name: p for p in files}


def _without_doubles(files: list[Path]) -> list[Path]:
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(path.stem.casefold(), []).append(path)
    gone: set[Path] = set()
    for alike in named.values():
        kept = one_clip_twice(alike) if len(alike) > 1 else None
        gone |= set(alike) - {kept} if kept else set()
    return [path for path in files if path not in gone]


def _by_task(root: Path, files: dict[str, Path], prompts: str, todo: Sequence[Task]) -> dict[str, Path]:
    listing = _listing(root, prompts)
    told = prompts_of(files) if listing is None and not any(task.id in files for task in todo) else None
    if told is not None:
        return _by_caption(root, files, told, todo)
    if listing is None:
        named = {task.id: files[task.id] for task in todo if task.id in files}
        _refuse_incomplete(
            root,
            [t.id for t in todo if t.id not in named],
            sorted(set(files) - set(named)),
            "task names as file names",
        )
        return named
    return _by_caption(root, files, read_listing(listing, files), todo)


def _listing(root: Path, prompts: str) -> Path | None:
    """The named one, else one that stands beside the videos."""
    listing = (
        Path(prompts).expanduser()
        if prompts
        else next((root / name for name in LISTINGS if (root / name).is_file()), None)
    )
    if listing is not None and not listing.is_file():
        raise ValueError(
            f"prompts={listing} is no file; give a JSONL or CSV with file and caption, or a text file with "
            "one caption a line"
        )
    return listing


def read_listing(path: Path, files: dict[str, Path]) -> list[tuple[str, str]]:
    """(file name, caption). A text file has one caption a line, for the files in the order of their names."""
    text = _text(path)
    lines = [line.strip() for line in lines_of(text)]
    if path.suffix == ".txt":
        if len(lines) != len(files):
            raise ValueError(
                f"{path} has {len(lines)} captions for {len(files)} videos; it must have one line for each, "
                "in the order of names"
            )
        return list(zip(sorted(files), lines, strict=True))
    try:
        rows = (
            list(csv.DictReader(io.StringIO(text, newline="")))
            if path.suffix == ".csv"
            else [json.loads(line) for line in lines]
        )
        return [_entry(row) for row in rows]
    except (json.JSONDecodeError, csv.Error, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} can't be read ({error!r}); each row needs file and caption (or prompt)"
        ) from error


def _text(path: Path) -> str:
    """As it stands there, less the mark that some editors begin UTF-8 with; a cell of a CSV may hold line
    ends of its own."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ValueError(f"prompts={path} must be text in UTF-8 ({where}); save it as UTF-8") from error


def _entry(row: dict[str, Any]) -> tuple[str, str]:
    file, words = row["file"], row["caption"] if "caption" in row else row["prompt"]
    if not (isinstance(file, str) and isinstance(words, str) and file.strip() and words.strip()):
        raise TypeError(f"file {file!r} with caption {words!r}")
    return file, words


def open_own(folder: str, prompts: str) -> tuple[VideoSet, dict[str, str]]:
    """A set that brings its own prompts: each video with exactly one, none twice, all sound and of one shape;
    else a ValueError. Clips, and the words as they were written, by their words without case."""
    root, files = _opened(folder)
    path = _listing(root, prompts)
    rows = prompts_of(files) if path is None else read_listing(path, files)
    if rows is None:
        raise ValueError(
            f"videos={folder} has no prompts; give prompts=FILE (JSONL or CSV of file and prompt), or "
            f"{LISTINGS[0]} in it"
        )
    path = path or root
    _refuse_lost(root, rows, files)
    for what, found in (
        ("file", [_stem(file) for file, _ in rows]),
        ("prompt", [plain_words(words) for _, words in rows]),
    ):
        twice = [name for name, num in Counter(found).items() if num > 1]
        if twice:
            raise ValueError(
                f"{path} has the same {what} more than once: {listed(twice[:_FEW])} (case does not count); "
                "keep one of each"
            )
    silent = sorted(set(files) - {_stem(file) for file, _ in rows})
    if silent:
        raise ValueError(
            f"{path} has no prompt for {len(silent)} videos of {root} (such as {listed(silent[:_FEW])}); "
            "add them"
        )
    clips = {plain_words(words): files[_stem(file)] for file, words in rows}
    return VideoSet(root, clips, _digest(root, clips.values())), {
        plain_words(words): words.strip() for _, words in rows
    }


def _by_caption(
    root: Path, files: dict[str, Path], rows: list[tuple[str, str]], todo: Sequence[Task]
) -> dict[str, Path]:
    _refuse_lost(root, rows, files)
    waiting: dict[str, list[str]] = {}
    for file, caption in rows:
        waiting.setdefault(plain_words(caption), []).append(_stem(file))
    wanted = Counter(plain_words(task.caption) for task in todo)
    doubles = [
        f"{caption!r} ({len(names)} times)"
        for caption, names in waiting.items()
        if len(names) > max(1, wanted[caption])
    ]
    if doubles:
        raise ValueError(
            f"videos={root} has more clips than the suite asks for of {listed(doubles)} (case does not "
            "count); keep one of each"
        )
    found = {}
    for task in todo:  # a file that has the task's own name is its clip, where several tasks have one caption
        names = waiting.get(plain_words(task.caption))
        if names:
            found[task.id] = files[names.pop(names.index(task.id) if task.id in names else 0)]
    _refuse_incomplete(
        root,
        [repr(t.caption) for t in todo if t.id not in found],
        [repr(c) for c, left in waiting.items() if left],
        "one clip for each caption",
    )
    return found


def _refuse_lost(root: Path, rows: list[tuple[str, str]], files: dict[str, Path]) -> None:
    lost = [file for file, _ in rows if _stem(file) not in files]
    if lost:
        raise ValueError(
            f"the prompts of videos={root} name {listed(lost)}, which is not there; every listed file must "
            "exist"
        )


def _refuse_incomplete(root: Path, lacking: list[str], strange: list[str], law: str) -> None:
    if not lacking:
        return  # clips that the suite does not ask for, a larger set than the one scored, do no harm
    more = (
        f" and holds {len(strange)} that the suite does not know (such as {listed(strange[:_FEW])})"
        if strange
        else ""
    )
    raise ValueError(
        f"videos={root} lacks {len(lacking)} clips of the suite (such as {listed(lacking[:_FEW])}){more}; "
        f"it needs {law}: "
        "'vgen evaluate stage=prompts out=FOLDER' writes them"
    )


def _check(found: dict[str, Path], todo: Sequence[Task]) -> None:
    """Decode everything once before anything is kept, so that a set is taken whole or refused."""
    sizes: dict[tuple[int, int], str] = {}
    wrong = []
    for task in todo:
        path = found[task.id]
        video = read_video(path, task.scene.num_frames)
        sizes.setdefault(video.shape[1:3], path.name)
        if len(video) != task.scene.num_frames:
            wrong.append(f"{path.name} has {len(video)}")
    if wrong:
        law = f"every clip must have {todo[0].scene.num_frames} frames as the suite asks"
        raise ValueError(f"{law}, but {listed(wrong)}; draw them again or set suite.num_frames")
    if len(sizes) > 1:
        examples = " and ".join(f"{name} is {w}x{h}" for (h, w), name in list(sizes.items())[:_FEW])
        raise ValueError(f"clips of one set must have one size, but {examples}; resize them alike")
    (height, width), name = next(iter(sizes.items()))
    if height != width:
        raise ValueError(
            f"the suite's pictures are square, but {name} is {width}x{height}; crop or draw square clips"
        )


def read_video(path: Path, num_frames: int | None = None) -> np.ndarray:
    """uint8 f h w 3 out of an mp4, a gif, an npy or a folder of png frames; a damaged file is an error, never
    a shorter clip. A GIF whose writer joined equal frames has them again where its durations make
    ``num_frames`` of them (None: nothing is known of the length)."""
    kind = path.suffix.lower() if path.is_file() else "folder"
    try:
        return _gif(path, num_frames) if kind == ".gif" else _READERS[kind](path)
    except (ValueError, EOFError, OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} can't be read: {error}; make it again") from error


def _mp4(path: Path) -> np.ndarray:
    return decode_mp4(path.read_bytes())


def _gif(path: Path, num_frames: int | None) -> np.ndarray:
    with opened(path) as image:
        size = image.width * image.height * 3 * getattr(image, "n_frames", 1)
        if size > MAX_BYTES:
            raise ValueError(f"it decodes to {size:,} bytes where {MAX_BYTES:,} are allowed")
        shots = [
            (np.asarray(as_rgb(frame)), frame.info.get("duration", 0))
            for frame in ImageSequence.Iterator(image)
        ]
    num_frames = num_frames or len(shots)
    unit = sum(duration for _, duration in shots) / num_frames
    times = np.array([duration / unit if unit else 1 for _, duration in shots])
    near = max(_UNEVEN, _HUNDREDTH_MS / unit) if unit else _UNEVEN
    held = (
        len(shots) < num_frames
        and times.round().sum() == num_frames
        and np.abs(times - times.round()).max() < near
    )
    return np.repeat(
        np.stack([frame for frame, _ in shots]), times.round().astype(int) if held else 1, axis=0
    )


def _npy(path: Path) -> np.ndarray:
    video = read_npy(path.read_bytes())
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(
            f"it holds {video.dtype} {video.shape} where uint8 f h w 3 is needed (scaled to 255, rounded, "
            "clipped)"
        )
    return video


def _pictures(path: Path) -> np.ndarray:
    frames = []
    for file in sorted(
        (p for p in path.iterdir() if p.suffix.lower() in _PICTURES),
        key=lambda p: [int(x) for x in re.findall(r"\d+", p.stem)],
    ):
        with opened(file) as image:
            frames.append(np.asarray(as_rgb(image)))
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("its frames have different sizes")
    return np.stack(frames)


_READERS: dict[str, Callable[[Path], np.ndarray]] = {".mp4": _mp4, ".npy": _npy, "folder": _pictures}


def _digest(root: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(root)).encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _stem(file: str) -> str:
    name = Path(file).name
    return Path(name).stem if Path(name).suffix.lower() in KINDS else name


def plain_words(caption: str) -> str:
    return " ".join(caption.casefold().split())
