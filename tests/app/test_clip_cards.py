"""The folder that ``vgen generate`` wrote is read as it is: a GIF beside its mp4, prompts in the cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgen.app.judging.cards import card_of
from vgen.app.judging.video_set import open_own
from vgen.data.clip_files import write_gif, write_grid, write_mp4


def write(folder: Path, number: int, prompt: str, **more: object) -> None:
    card = {"prompt": prompt, "seed": number, **more}
    video = np.full((3, 32, 32, 3), 40 * number, np.uint8)
    stem = f"{number:03d}-clip"
    write_mp4(folder / f"{stem}.mp4", video, 8.0, card)
    write_gif(folder / f"{stem}.gif", video, 8.0, card)
    write_grid(folder / f"{stem}.png", video, card)


def test_a_generated_folder_needs_no_listing(tmp_path: Path) -> None:
    for number, prompt in enumerate(("A cat", "a dog, asleep")):
        write(tmp_path, number, prompt)
    videos, words = open_own(str(tmp_path), "")
    assert words == {"a cat": "A cat", "a dog, asleep": "a dog, asleep"}
    assert [path.name for path in videos.clips.values()] == ["000-clip.mp4", "001-clip.mp4"]
    assert card_of(tmp_path / "001-clip.gif") == card_of(tmp_path / "001-clip.mp4")


def test_files_of_one_name_that_are_not_one_clip_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, "a cat")
    write_gif(tmp_path / "000-clip.gif", np.zeros((3, 32, 32, 3), np.uint8), 8.0, {"prompt": "a dog"})
    with pytest.raises(ValueError, match="two videos of the same name for 000-clip"):
        open_own(str(tmp_path), "")


def test_clips_without_cards_want_their_prompts(tmp_path: Path) -> None:
    write(tmp_path, 0, "a cat")
    write_mp4(tmp_path / "other.mp4", np.zeros((3, 32, 32, 3), np.uint8))
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    assert card_of(tmp_path / "broken.gif") is None
    with pytest.raises(ValueError, match="has no prompts; give prompts=FILE"):
        open_own(str(tmp_path), "")
