"""Law: what runs methods knows none of them by name. A row brings all that the command line and training
need."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from vgen.methods import catalogue

ROOT = Path(__file__).parents[2]
CHOOSES = {"vgen/app/demo.py"}
"""Files whose job is to choose a method."""
SHOWS_EXAMPLES = {"vgen/app/verbs.py"}
"""Files whose strings are examples for people; a name outside of a string is refused there, too."""
HOMONYMS = {
    ("vgen/app/control_net.py", "control_net"): "the net beside an edit, which is no method",
    ("vgen/app/edit.py", "control_net"): "the same",
    ("vgen/app/edit_checks.py", "control_net"): "the same",
    ("vgen/app/edit_run.py", "control_net"): "the same",
    ("vgen/app/early.py", "lora"): "a word that people write for an adapter",
    ("vgen/app/low_rank.py", "lora"): "the layers of vgen.layers.lora, whoever inserts them",
}
"""Words that are a method's name and mean something else here."""
KNOWN: set[tuple[str, str]] = set()
"""Names that are still to go, by file. An entry that no longer occurs has to be taken out."""


def names() -> list[str]:
    """Catalogued names and their classes."""
    methods = catalogue()
    return sorted({*methods, *(recipe.__name__ for recipe in methods.values())})


def files() -> list[Path]:
    return [path for room in ("app", "training") for path in sorted((ROOT / "vgen" / room).rglob("*.py"))]


def found_in(text: str, strings_count: bool = True) -> set[str]:
    """The names that stand in the text of a file: in code, strings, docstrings and comments. Modules of
    ``vgen.methods`` have the names of their methods, so imports are found as well."""
    shown = text if strings_count else _without_strings(text)
    return set(re.findall(rf"(?<!\w)(?:{'|'.join(names())})(?!\w)", shown))


def _without_strings(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def mentions() -> set[tuple[str, str]]:
    found = set()
    for path in files():
        place = path.relative_to(ROOT).as_posix()
        if place not in CHOOSES:
            text = path.read_text(encoding="utf-8")
            found |= {(place, name) for name in found_in(text, place not in SHOWS_EXAMPLES)}
    return found


def test_no_method_is_named_outside_of_its_file() -> None:
    new = sorted(mentions() - KNOWN - HOMONYMS.keys())
    assert not new, (
        f"a method is known by name in {new}; let its recipe say what is needed (vgen/methods/_recipe.py)"
    )


def test_what_is_still_to_go_is_still_there() -> None:
    gone = sorted(KNOWN - mentions())
    assert not gone, f"{gone} no longer occur; take them out of KNOWN"


def test_names_are_found_wherever_they_stand() -> None:
    assert found_in("from vgen.methods.animatediff import AnimateDiff") == {"animatediff", "AnimateDiff"}
    assert found_in('"""As FateZero does."""') == {"FateZero"}
    assert found_in("x = 'vgen edit method=fatezero'  # or tune_a_video") == {"fatezero", "tune_a_video"}
    assert found_in("x = 'vgen edit method=fatezero'", strings_count=False) == set()
    assert found_in("my_animatediff = fatezeros") == set()
