"""An adapter of another person: its numbers are numbers, its card is plain and is shown as letters."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vgen.app.judging.page import _script
from vgen.app.refusals import in_letters
from vgen.app.stacks import recipe_of
from vgen.app.templates import environment
from vgen.app.terminal import Shown, Terminal
from vgen.formats.adapter import load_adapter
from vgen.resources import data_dir

ESCAPE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture
def shipped() -> tuple[dict[str, torch.Tensor], dict]:
    path = data_dir() / "toybox" / "motion_module" / "adapter.safetensors"
    tensors, card = load_adapter(path)
    names = ("recipe", "knobs", "backbone", "backbone_source", "run", "summary", "format")
    return tensors, {name: getattr(card, name) for name in names}


def written(path: Path, tensors: dict[str, torch.Tensor], card: object) -> Path:
    text = card if isinstance(card, str) else json.dumps(card)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {"vgen": text})
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_adapter_that_holds_no_numbers_is_refused(shipped, tmp_path, value):
    tensors, card = shipped
    name = sorted(tensors)[3]
    tensors[name].view(-1)[-1] = value
    with pytest.raises(
        ValueError, match=rf"no finite numbers in 1 of {len(tensors)} tensors \(first: {name}\)"
    ):
        load_adapter(written(tmp_path / "a.safetensors", tensors, card))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "[" * 2000, "\x00", "null", "{}"])
def test_a_card_that_is_none_is_one_sentence(shipped, tmp_path, text):
    with pytest.raises(ValueError, match=r"vgen card in .*a\.safetensors is no|is of format None"):
        load_adapter(written(tmp_path / "a.safetensors", shipped[0], text))


@pytest.mark.parametrize(
    "knobs",
    [
        {"_target_": "os.mkdir"},
        {"motion": {"_target_": "os.mkdir", "heads": 4}},
        {"motion": {"heads": "${oc.env:HOME}"}},
        {"motion": {"heads": [4]}},
    ],
)
def test_knobs_of_a_card_are_data(shipped, tmp_path, knobs):
    tensors, card = shipped
    path = written(tmp_path / "a.safetensors", tensors, card | {"knobs": card["knobs"] | knobs})
    with pytest.raises(ValueError, match="the vgen card of it cannot be read"):
        recipe_of(load_adapter(path)[1], "it")


def test_what_a_terminal_would_obey_is_spelt_out(shipped, tmp_path):
    tensors, card = shipped
    path = written(tmp_path / "a.safetensors", tensors, card | {"recipe": f"nice{ESCAPE}"})
    with pytest.raises(ValueError, match="which this vgen does not have") as caught:
        recipe_of(load_adapter(path)[1])
    spelt = in_letters(f"{caught.value} {ESCAPE}")
    assert r"\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e" in spelt
    assert not set(spelt) & set("\x1b\x07\x9b\u202e")
    assert in_letters("ein grüner\tStern\n猫") == "ein grüner\tStern\n猫"


def test_tables_lines_and_logs_show_letters():
    from rich.table import Table

    out = io.StringIO()
    console = Terminal(file=out, width=200)
    table = Table(f"head{ESCAPE}")
    table.add_row(f"cell{ESCAPE}")
    console.print(f"line{ESCAPE}")
    console.print(table)
    assert not set(out.getvalue()) & set("\x1b\x07\x9b\u202e")
    assert out.getvalue().count(r"\x1b]0;pwned") == 3
    record = logging.makeLogRecord({"msg": "a %s", "args": (ESCAPE,)})
    assert Shown("%(message)s").format(record) == f"a {in_letters(ESCAPE)}"


def test_a_page_shows_captions_and_names_as_letters():
    """In its text by escaping, in its data without the sign that ends a script or hides its end."""
    caption = "</script><!--<script>alert(1)//--><img src=x onerror=alert(1)>\u2028'\""
    told = _script({"caption": caption})
    assert "<" not in told
    assert json.loads(told) == {"caption": caption}
    page = environment("vgen.app.judging").from_string('<p title="{{ x }}">{{ x }}</p>').render(x=caption)
    assert page.count("<") == 2
    assert page.count('"') == 2
