"""The table of methods in the README is the catalogue's."""

from pathlib import Path

from vgen.app.methods import markdown, pages
from vgen.methods import Regime, catalogue

SERVES = {"2106.09685", "2302.05543", "2311.16933"}
"""LoRA and ControlNet, what systems are made of, and SparseCtrl, a stage of AnimateDiff: none of the 22."""


def test_readme_holds_the_catalogue() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    between = readme.split("<!-- methods: written by 'vgen methods format=markdown' -->\n")[1].split(
        "\n<!-- /methods -->"
    )[0]
    assert between == markdown(), (
        "run 'vgen methods format=markdown' and put its output between the markers in README.md"
    )


def test_docs_hold_every_row() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    assert text.rstrip() == pages().rstrip(), "run 'vgen methods format=pages > docs/methods.md'"


def test_readme_says_how_many_systems_are_in() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    systems = {recipe.paper.arxiv for recipe in catalogue().values() if recipe.regime is not Regime.IMAGE}
    num = len(systems - SERVES)  # the stages of one paper are one system
    assert f"{num} of the 22 published systems are in" in readme
