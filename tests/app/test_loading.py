"""Names to image models: cards can be read from any directory, and only what a person names is fetched."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from vgen.app.evaluate import EvaluateRun, evaluate
from vgen.app.export import Export, export
from vgen.app.loading import load_backbone, open_checkpoint
from vgen.app.refusals import refusal
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.methods import assemble
from vgen.methods.animatediff import AnimateDiff
from vgen.metrics.suite import Suite


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save(blank(Blank.TOYBOX).freeze(), folder / "models" / "toy", torch.float32)
    return folder


@pytest.fixture
def adapter(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trained where the image model is ``models/toy``."""
    monkeypatch.chdir(home)
    model = load_backbone("models/toy")
    tensors = {
        f"unet.{n}": p.clone()
        for n, p in assemble(AnimateDiff(), model).unet.named_parameters()
        if n.startswith("inserted.")
    }
    save_adapter(home / "adapter.safetensors", tensors, Card.of("animatediff", AnimateDiff(), model, {}, {}))
    return home / "adapter.safetensors"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What the hub is asked for, and whether only of its cache; it has nothing."""
    calls: list[tuple[str, bool]] = []

    def nothing(name: str, *, local_files_only: bool = False, **_: Any) -> str:
        calls.append((name, local_files_only))
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    return calls


def test_a_card_made_of_a_relative_folder_is_read_from_any_directory(
    home: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list
) -> None:
    assert load_adapter(adapter)[1].backbone_source == str(home / "models" / "toy")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(str(adapter)).model.source == str(home / "models" / "toy")
    assert not asked


@pytest.mark.parametrize("name", ["toybox", f"blank:{Blank.TOYBOX.value}:3"])
def test_names_that_are_no_folders_stay(name: str) -> None:
    assert load_backbone(name).source == name


def test_what_only_a_card_names_is_not_fetched(adapter: Path, tmp_path: Path, asked: list) -> None:
    tensors, card = load_adapter(adapter)
    save_adapter(tmp_path / "moved.safetensors", tensors, replace(card, backbone_source="owner/gone"))
    moved = str(tmp_path / "moved.safetensors")
    sentence = (
        r"=.*moved.safetensors was trained on image model owner/gone, which is no folder here and not in "
        r"the hub's cache; backbone="
    )
    with pytest.raises(ValueError, match=f"adapter{sentence}"):
        open_checkpoint(moved)
    with pytest.raises(ValueError, match=f"run{sentence}"):
        export(Export(run=moved, out=str(tmp_path / "mm")))
    suite = Suite(iid=1, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=2)
    with pytest.raises(ValueError, match=f"adapter{sentence}"):
        evaluate(EvaluateRun(adapter=moved, suite=suite, out=str(tmp_path / "out")))
    assert set(asked) == {("owner/gone", True)}
    save_adapter(
        tmp_path / "moved.safetensors", tensors, replace(card, backbone_source=str(tmp_path / "gone"))
    )
    with pytest.raises(
        ValueError, match=r"was trained on image model .*gone, which is no folder here .*; backbone="
    ):
        open_checkpoint(moved)
    assert open_checkpoint(moved, str(adapter.parent / "models" / "toy")).card is not None, "the remedy"


def test_what_a_person_names_is_fetched_and_said(
    home: Path, adapter: Path, asked: list, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ValueError, match=r"backbone owner/name is no folder here and could not be fetched from the hub"
    ):
        open_checkpoint(str(adapter), "owner/name")
    assert asked == [("owner/name", False)]
    assert caplog.messages == ["backbone owner/name is no folder here: it is being fetched from the hub"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(home / "models" / "toy"))
    assert load_backbone("owner/name").source == "owner/name", "a hub id is the same on every machine"


def _knobs(**changed: Any) -> dict[str, Any]:
    card = Card(
        recipe="animatediff", knobs=changed, backbone="0" * 16, backbone_source="toybox", run={}, summary={}
    )
    return {"vgen": json.dumps(asdict(card))}


DAMAGED = {
    "no JSON": ({"vgen": "{not json"}, "the vgen card in PATH is no JSON (.*); the file is damaged"),
    "a list": ({"vgen": "[1]"}, r"the vgen card in PATH is no section of names and values but \[1\]"),
    "lacking": (
        {"vgen": '{"format": "vgen-adapter-1", "recipe": "animatediff"}'},
        "the vgen card in PATH lacks knobs, backbone",
    ),
    "a choice": (
        _knobs(image_norm_scope="frames"),
        "card of adapter=PATH .*AnimateDiff.image_norm_scope must be one of frame, .*'frames'",
    ),
    "a word": (
        _knobs(text_drop="much"),
        "card of adapter=PATH .*AnimateDiff.text_drop must be float, got 'much'",
    ),
    "a truth": (
        _knobs(motion={"heads": True}),
        "card of adapter=PATH .*MotionModuleSpec.heads must be int, got True",
    ),
    "no section": (
        _knobs(motion=3),
        "card of adapter=PATH .*MotionModuleSpec must be a section of names and values, got 3",
    ),
    "not a knob": (_knobs(paper={}), "card of adapter=PATH .*AnimateDiff has no field paper"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_card_is_refused_by_the_files_name(tmp_path: Path, how: str) -> None:
    path, (metadata, sentence) = tmp_path / "a.safetensors", DAMAGED[how]
    save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match=sentence.replace("PATH", str(path))) as caught:
        open_checkpoint(str(path))
    assert refusal(caught.value) is not None, "one sentence, no traceback"
