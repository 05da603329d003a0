"""The table of methods in the README is the catalogue's."""

import re
from pathlib import Path

import pytest

from vgen.app import figures, methods
from vgen.app.methods import SHORT, about, anchor, main, markdown, pages, told
from vgen.methods import Regime, catalogue

SERVES = {"2106.09685", "2302.05543", "2311.16933"}
"""LoRA and ControlNet, what systems are made of, and SparseCtrl, a stage of AnimateDiff: none of the 22."""


ROOT = Path(__file__).parents[2]
NUMBER = {"mean": 0.71, "low": 0.6, "high": 0.8, "num": 64}
MEASURED = {
    "figures": [
        {"what": "J of a thing", "ours": NUMBER, "control": "off", "theirs": NUMBER, "beyond": NUMBER}
    ],
    "commands": ["vgen train"],
    "cpu_minutes": 12.0,
    "titles": ["control: edges", "a red circle"],
}


def sections() -> dict[str, str]:
    """Of docs/guides/faithfulness.md, by heading."""
    text = (ROOT / "docs" / "guides" / "faithfulness.md").read_text(encoding="utf-8")
    return {part.split("\n")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}


def test_what_is_told_of_a_method_is_whole() -> None:
    assert set(told()) <= set(catalogue())
    for name, own in told().items():
        assert 0 < len(own.short) <= SHORT, name
        assert f"method={name} " in own.command, name
        assert bool(own.parity) == bool(own.section) == (catalogue()[name].regime is not Regime.IMAGE), name


def test_every_figure_beside_other_code_stands_in_the_guide() -> None:
    for name, own in told().items():
        for size in re.findall(r"\d[\d.]*e-\d+", own.parity):
            assert size in sections()[own.section], f"{name}: {size}"


def test_a_method_of_which_nothing_is_told_says_its_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "told", dict)
    assert about("lora").command == "vgen show lora"
    assert about("lora").short.startswith("LoRA")


def test_headings_become_anchors() -> None:
    assert anchor("Prompt-to-Prompt and null-text inversion") == "prompt-to-prompt-and-null-text-inversion"
    assert anchor("ControlVideo, training-free") == "controlvideo-training-free"


def test_a_page_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "measured", lambda: {"control_net": MEASURED})
    text = pages()
    assert "| J of a thing: 0.71 [0.60, 0.80]; off: 0.71 [0.60, 0.80] (n = 64) |" in text
    alt = "control_net, moving pictures: control: edges; a red circle"
    assert f"![{alt}](gallery/control_net.webp)" in text
    assert "gallery/index.html" in text
    assert text.count("<details>") == text.count("</details>") == len(catalogue())


def test_a_figure_of_a_long_name_loses_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    long = {**MEASURED, "figures": [{"what": "motion right, of what moves", "ours": NUMBER}]}
    monkeypatch.setattr(figures, "measured", lambda: {"lora": long})
    assert figures.brief("lora") == "motion right 0.71"


def test_the_terminal_shows_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "measured", lambda: dict.fromkeys(catalogue(), MEASURED))
    monkeypatch.setattr("sys.argv", ["vgen methods"])
    monkeypatch.setenv("COLUMNS", "80")
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(catalogue()) + 1
    assert max(len(line) for line in lines[:-1]) <= 80
    assert re.match(r"control_net +pictures along edges +J 0\.71 \[0\.60, 0\.80\]", lines[6])


def test_readme_holds_the_catalogue() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    between = readme.split("<!-- methods: written by 'vgen methods format=markdown' -->\n")[1].split(
        "\n<!-- /methods -->"
    )[0]
    assert between == markdown(), (
        "run 'vgen methods format=markdown' and put its output between the markers in README.md"
    )


def test_docs_hold_every_row() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert text.rstrip() == pages().rstrip(), "run 'vgen methods format=pages > docs/methods.md'"


def test_readme_says_how_many_systems_are_in() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    systems = {recipe.paper.arxiv for recipe in catalogue().values() if recipe.regime is not Regime.IMAGE}
    num = len(systems - SERVES)  # the stages of one paper are one system
    assert f"{num} of the 22 published systems are in" in readme
