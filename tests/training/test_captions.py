"""Captions that the text encoder reads in part are said once, before training."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from vgen.backbones.image_model import ImageModel
from vgen.data.clips import Clips, Window
from vgen.data.fields import Needs
from vgen.data.one_clip import OneClip
from vgen.training.captions import MOST_READ, say_cut_captions


class Many(OneClip):
    """The clip of each row is the same; captions differ."""

    def __init__(self, captions: list[str]) -> None:
        video = np.zeros((2, 8, 8, 3), np.uint8)
        super().__init__(video, captions[0], 8.0)
        self.rows = [OneClip(video, caption, 8.0)[0] for caption in captions]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        return self.rows[i]


def told(model: ImageModel, captions: list[str], caplog, needs: Needs | None = None) -> str:
    reader = Many(captions)
    with caplog.at_level(logging.WARNING):
        say_cut_captions(model, Clips(reader, Window(num_frames=2), 0, range(len(reader)), needs))
    return caplog.text


def test_the_share_and_the_longest_are_said_once(tiny, caplog):
    room = tiny.tokenizer.model_max_length - 2
    said = told(tiny, ["red " * room, "red " * (room + 5), "red " * (room + 3), "blue"], caplog)
    assert len(caplog.records) == 1
    assert f"2 of 4 captions, 50 %, are longer than the text encoder reads ({room} tokens): up to 5" in said


def test_captions_that_fit_are_no_news(tiny, caplog):
    assert told(tiny, ["red", "blue"], caplog) == ""
    no_text = Needs(required=frozenset({"video"}))
    assert told(tiny, ["red " * 500], caplog, no_text) == ""


@pytest.mark.parametrize("num", [MOST_READ + 1, 2 * MOST_READ])
def test_of_many_captions_some_are_looked_at(tiny, caplog, num):
    said = told(tiny, ["red " * 100, *["blue"] * (num - 1)], caplog)
    assert f"(of {num:,} in all)" in said
