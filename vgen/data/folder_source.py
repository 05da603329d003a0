"""Videos of a folder, with captions beside the files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgen.data.beside import Given
from vgen.data.bounded import refuse_deep
from vgen.data.decode import Cut
from vgen.data.download import Fetch
from vgen.data.ledger import Rejection
from vgen.data.sources import Captions, Job, Source
from vgen.data.video_rows import Row, is_there, jobs_of, shown
from vgen.spec import spec

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".qt",
    ".3gp",
    ".webm",
    ".mkv",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".ogv",
    ".flv",
    ".wmv",
    ".gif",
)


@spec
class FolderSource(Source):
    """Video files of a folder and its subfolders; ``clip.txt`` or ``clip.json`` beside ``clip.mp4`` holds the
    caption, and ``clip.depth.mp4``, ``clip.pose.json`` a field."""

    path: str | None = None
    caption_key: str = "caption"  # in the .json; its other entries are kept
    captions: Captions = Captions.REQUIRED

    def name(self) -> str:
        return self._folder().resolve().name

    def knows(self) -> tuple[str, ...]:
        return Given(_videos(self._folder())).fields

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        folder = self._folder()
        found = sorted(_videos(folder), key=lambda f: f.relative_to(folder).as_posix())
        given = Given(found)
        files = [file for file in found if file not in given]
        if not files:
            raise ValueError(
                f"folder {folder} holds no video; looked for {' '.join(VIDEO_SUFFIXES)} in it and below"
            )
        rows = []
        for file in files:
            name = file.relative_to(folder)
            rows.append(
                Row(
                    name.with_suffix("").as_posix(),
                    shown(name.as_posix()),
                    str(file.absolute()),
                    *self._caption(file),
                    given=given.of(file),
                )
            )
        return jobs_of(rows, cut, Fetch(), self.captions)

    def _folder(self) -> Path:
        if self.path is None:
            raise ValueError("data=folder needs the folder of videos: data.path=FOLDER")
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"data.path={self.path} is no folder; for a .csv, .parquet or .jsonl listing use data=listing"
            )
        return folder

    def _caption(self, file: Path) -> tuple[str | None, dict[str, Any], str]:
        """Caption, other columns, and why there is no caption: None is none at all, an empty one is one that
        can't be used."""
        text, facts = file.with_suffix(".txt"), file.with_suffix(".json")
        caption, columns, reading = "", {}, facts
        try:
            if is_there(facts):
                columns = json.loads(facts.read_text(encoding="utf-8-sig"))
                refuse_deep(columns)
                if not isinstance(columns, dict):
                    raise ValueError(f"it holds a {type(columns).__name__} where an object is needed")
                caption = columns.pop(self.caption_key, None) or ""
            reading = text
            if is_there(text):
                caption = text.read_text(encoding="utf-8-sig").strip() or caption
            found = [shown(f.name) for f in (text, facts) if is_there(f)]
        except (ValueError, RecursionError) as error:
            return "", {}, f"{shown(reading.name)} can't be read: {error}"
        except OSError as error:  # no right to read it
            return "", {}, f"{shown(reading.name)} can't be read: {error.strerror}"
        if not isinstance(caption, str):
            return "", {}, f"{self.caption_key!r} in {shown(facts.name)} is no text"
        return (
            " ".join(caption.split()) or None,
            columns,
            f"no caption in {' or '.join(found)}"
            if found
            else f"neither {shown(text.name)} nor {shown(facts.name)} beside it",
        )


def _videos(folder: Path) -> Iterator[Path]:
    """Video files of a folder and below, through links too: a link that leads nowhere is a file that is
    missing, not one that never was."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        if here in seen:  # a link back up
            folders.clear()
            continue
        seen.add(here)
        folders.sort()
        yield from (path for name in names if (path := Path(root, name)).suffix.lower() in VIDEO_SUFFIXES)
