"""Where the states of a caption of several things are to come from."""

from __future__ import annotations

import torch
from torch import Tensor

from vgen.methods.image._composition import Parts, composed, plan

BEGIN, END, LENGTH = 100, 101, 14
TWO = Parts("on gray ,", ("a red ring rests", "an orange star"), "now", "and")


def words(text: str) -> list[int]:
    return [sum(map(ord, word)) % 97 for word in text.split()]


def read(of: Parts) -> tuple[list[list[int]], list[list[tuple[int, int]]], list[int]]:
    found = plan(of, words, BEGIN, END, LENGTH)
    return found.sources, found.places, found.own


def test_one_thing_keeps_its_own_states() -> None:
    sources, places, own = read(Parts("", ("a red ring rests",), " now", "and"))
    assert sources == [[BEGIN, *words("a red ring rests now"), *[END] * 8]]
    assert places == [[(0, i)] for i in range(LENGTH)]
    assert own == []


def test_every_word_comes_from_the_caption_of_its_thing_alone() -> None:
    sources, places, own = read(TWO)
    first, second = (
        [BEGIN, *words("on gray , a red ring rests now"), END],
        [BEGIN, *words("on gray , an orange star now"), END],
    )
    assert [row[: row.index(END) + 1] for row in sources] == [
        [BEGIN, *words("on gray , a red ring rests and an orange star now"), END][:LENGTH],
        first,
        second,
    ]
    assert places[:4] == [[(1, 0)], [(1, 1)], [(1, 2)], [(1, 3)]]  # what stands before is the same in both
    assert places[4:8] == [[(1, 4)], [(1, 5)], [(1, 6)], [(1, 7)]]
    assert places[8] == [(1, 7)]  # "and" as the last word before it
    assert [places[i] for i in own] == [[(2, 4)], [(2, 5)], [(2, 6)]]
    assert places[12] == [(1, 8), (2, 7)]  # the ground belongs to both
    assert places[13] == [(0, 13)]  # the end speaks of everything


def test_padding_is_shared_out_in_turn() -> None:
    _, places, _ = read(Parts("", ("red", "blue"), "", "and"))
    assert places[4] == [(0, 4)]
    assert places[5:9] == [[(1, 3)], [(2, 3)], [(1, 4)], [(2, 4)]]


def test_what_is_too_long_keeps_the_states_it_has() -> None:
    sources, places, own = read(Parts("", ("a " * 9, "b " * 9), "", "and"))
    assert len(sources) == 1
    assert len(sources[0]) == LENGTH
    assert sources[0][-1] == END
    assert places == [[(0, i)] for i in range(LENGTH)]
    assert own == []


def test_targets_are_gathered_and_averaged() -> None:
    def states(ids: Tensor) -> Tensor:  # row and place, so that a target tells where it is from
        rows, places = torch.meshgrid(torch.arange(len(ids)), torch.arange(ids.shape[1]), indexing="ij")
        return torch.stack([rows, places], -1).float()

    one, two = (
        plan(Parts("", ("a red ring",), "", "and"), words, BEGIN, END, LENGTH),
        plan(TWO, words, BEGIN, END, LENGTH),
    )
    out = composed([one, two], states, torch.device("cpu"))
    assert out.shape == (2, LENGTH, 2)
    assert out[0].tolist() == [[0, i] for i in range(LENGTH)]
    assert out[1, 9].tolist() == [3, 4]  # the second caption's rows follow the first's one row
    assert out[1, 12].tolist() == [2.5, 7.5]
