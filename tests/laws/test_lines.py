"""``str.splitlines`` also cuts at U+2028, U+0085 and six more marks, which prompts may hold: what
people wrote is cut by ``vgen.data.files.lines_of``."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from vgen.data.files import lines_of

ROOT = Path(__file__).parents[2]
MACHINES = {
    "backbones/image_model_folder.py": "the first line of an error",
    "backbones/pretrained.py": "the first line of an error",
    "formats/state_file.py": "the first line of an error",
    "app/refusals.py": "the first line of an error",
    "metrics/learned/vbench_package.py": "the last line of a program's output",
    "training/checkpoint_folder.py": "the first line of an error",
    "app/detectors.py": "lines of a program's output",
    "app/checkups.py": "lines of a program's output",
    "app/probes.py": "lines of a program's output",
    "app/edit_plan.py": "lines of /proc/meminfo",
    "app/show.py": "lines of YAML that was made here",
}


def uses(path: Path) -> bool:
    names = (node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    return "splitlines" in names


def test_only_what_programs_said_is_cut_at_every_mark() -> None:
    found = {p.relative_to(ROOT / "vgen").as_posix() for p in (ROOT / "vgen").rglob("*.py") if uses(p)}
    assert found <= set(MACHINES), "cut what people wrote with vgen.data.files.lines_of"


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_a_prompt_keeps_its_marks(mark: str) -> None:
    prompt = f"a red{mark}circle"
    written = "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for _ in range(2))
    assert [json.loads(line)["prompt"] for line in lines_of(written)] == [prompt, prompt]
    assert lines_of(f"{prompt}\r\n\r\n \n{prompt}\r") == [prompt, prompt]
