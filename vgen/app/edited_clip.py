"""What came of an edit: arrays, and the files that are made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vgen
from vgen.app.edit_keep import put_sound
from vgen.app.edit_run import EditRun, Extra, along_pictures
from vgen.app.folders import claimed
from vgen.data.clip_files import enlarged, write_gif, write_grid, write_mp4
from vgen.data.panels import side_by_side
from vgen.formats.adapter import plain
from vgen.methods import name_of
from vgen.spec import field


@dataclass(frozen=True, slots=True)
class EditedClip:
    """uint8 f h w 3 each; ``source`` is the pictures of a ControlNet where no clip was given, ``mask`` the
    source, dimmed where the mask is shut. ``report`` holds figures:
    PSNR of the reconstruction and of the decoder alone, bytes, seconds, peak memory in GiB. ``pictures``
    uint8 h w 3 (or 4) are written by their names. Where it ``is_edit`` no more, it shows what was learnt."""

    video: np.ndarray
    source: np.ndarray
    reconstruction: np.ndarray | None
    mask: np.ndarray | None
    report: dict[str, Any]
    run: EditRun
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_edit: bool = True

    def save(self, folder: str | Path) -> Path:
        """Write ``edited.mp4``, ``.gif`` and ``.png`` (a grid of frames), ``side_by_side.mp4`` with labels,
        what the run's ``save`` asks for and ``card.json``; returns the folder.

        Raises ValueError for a folder that holds something.
        """
        with claimed(folder) as out:
            self.write(out)
        return out

    def write(self, out: Path) -> None:
        """The same into an empty folder."""
        run = self.run
        shown_first = "control" if along_pictures(run.method) and not run.shown() else "source"
        name = "edited" if self.is_edit else "reconstruction"
        panels = {shown_first: self.source, name: self.video}
        for extra, video in ((Extra.RECONSTRUCTION, self.reconstruction), (Extra.MASK, self.mask)):
            if extra in run.save and video is not None:
                panels[extra.value] = video
                write_mp4(out / f"{extra.value}.mp4", enlarged(video, run.least_px), run.fps)
        card = {
            "vgen": vgen.__version__,
            "method_name": name_of(run.method),
            **plain(asdict(run)),
            "report": self.report,
        }
        shown = enlarged(self.video, run.least_px)
        put_sound(write_mp4(out / f"{name}.mp4", shown, run.fps, card), run)
        write_gif(out / f"{name}.gif", shown, run.fps, card)
        for picture_name, picture in self.pictures.items():
            write_grid(out / f"{picture_name}.png", picture[None], card, columns=1)
        grid = (self.video, 1) if run.image else (enlarged(self.video, 128), 8)
        write_grid(out / f"{name}.png", grid[0], card, columns=grid[1])
        beside = side_by_side({shows: enlarged(video, run.least_px) for shows, video in panels.items()})
        write_mp4(out / "side_by_side.mp4", beside, run.fps)
        (out / "card.json").write_text(json.dumps(card, indent=2))
