"""Verbs that share a process, in any order, by the command line and from Python."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from vgen.app import cli, composed, config
from vgen.app.edit import EditRun
from vgen.app.edit import offer as offer_edits
from vgen.app.generate import GenerateRun
from vgen.app.generate import offer as offer_drawing
from vgen.methods.masactrl import MasaCtrl

COMMANDS = {
    "train": ["data=toybox", "method=dreamartist"],
    "edit": ["method=masactrl", "video=a.mp4", "source=a cat", "target=a dog"],
    "evaluate": ["method=ddim", "suite=edit"],
    "generate": ["prompt=a cat"],
    "prepare": ["data=toybox", "data.num_clips=3", "out=there"],
    "export": ["from=a.safetensors", "to=vgen", "out=there", "backbone=toybox", "method=animatediff"],
}
"""``method`` is a group of three verbs, each with options of its own, and a key of export; ``data`` is one of
two."""


@dataclass
class OfACaller:
    heads: int = 3


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], object]]:
    """Runs a verb's command in this process up to its typed run, and gives that."""
    runs: list[object] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(config, "_act", lambda cfg, action: runs.append(OmegaConf.to_object(cfg)))

    def told(verb: str) -> object:
        assert cli.run(verb, COMMANDS[verb]) == cli.DONE
        return runs[-1]

    before = offered_names()
    yield told
    assert offered_names() == before, "nothing of a verb stays"


def offered_names() -> dict[str, list[str]]:
    """But for Hydra's own group, to which its plugins add when they are first looked for."""
    repo = ConfigStore.instance().repo
    nodes = {name: node for name, node in repo.items() if name != "hydra"}
    return {name: sorted(node) if isinstance(node, dict) else [] for name, node in nodes.items()}


@pytest.mark.parametrize("order", range(4))
def test_verbs_in_any_order_are_told_the_same(told: Callable[[str], object], order: int) -> None:
    verbs = [*COMMANDS, *COMMANDS]
    random.Random(order).shuffle(verbs)
    runs: dict[str, object] = {}
    for verb in verbs:
        assert runs.setdefault(verb, told(verb)) == told(verb), f"{verb} in {verbs}"


def test_python_and_the_command_line_do_not_see_one_another(told: Callable[[str], object]) -> None:
    keys = {"method": "masactrl", "video": "a.mp4", "source": "a cat", "target": "a dog"}
    for verb in ("train", "export", "prepare"):
        told(verb)
        edit = composed.settings("edit", EditRun, offer_edits, keys)
        assert edit.method == MasaCtrl()
        told(verb)
        assert composed.settings("generate", GenerateRun, offer_drawing, {"prompt": "a"}).prompt == "a"


def test_groups_of_a_caller_are_not_seen_and_stay(
    told: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of its own with Hydra may have groups of the names that are keys or groups here."""
    store = ConfigStore.instance()
    with monkeypatch.context() as patch:
        patch.setattr(store, "repo", dict(store.repo))
        store.store(group="method", name="theirs", node=OfACaller)
        store.store(group="sampling", name="fast", node=OfACaller)
        for verb in ("export", "generate", "edit"):
            told(verb)
        assert list(store.repo["method"]) == ["theirs.yaml"]
        assert list(store.repo["sampling"]) == ["fast.yaml"]


def test_what_is_refused_leaves_nothing_either(told: Callable[[str], object]) -> None:
    before = offered_names()
    assert cli.run("edit", ["method=lumiere", "video=a.mp4"]) == cli.REFUSED
    with pytest.raises(ValueError, match="method=lumiere is not an option"):
        composed.settings("edit", EditRun, offer_edits, {"method": "lumiere"})
    assert offered_names() == before
    told("export")
