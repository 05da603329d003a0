"""Every command of README.md, the guides and the help pages, as the shells that people have read it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from vgen.app.verbs import VERBS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
_SPECIAL = re.compile(r"[\[\]{}*?()<>]")
"""What some shell takes for a pattern, a group or a file."""
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"")
WITNESS = """#!/bin/sh
printf '%s\\037' "$@" >> "$LOG"
echo >> "$LOG"
"""
"""A vgen that notes its words, a line a call."""


def commands() -> list[str]:
    """Lines that begin with ``vgen``, without their comments, continued ones joined."""
    blocks = [block for page in PAGES for block in _blocks(page)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [example.replace("\\\n", " ") for verb in VERBS.values() for example in verb.examples]
    return list(dict.fromkeys(_bare(line) for line in lines if line.startswith("vgen ")))


def _blocks(page: Path) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def _bare(line: str) -> str:
    parts = re.findall(rf"{_QUOTED.pattern}|\s+|[^\s'\"]+", line)
    end = parts.index("#") if "#" in parts else len(parts)
    return "".join(parts[:end]).strip()


def test_nothing_is_left_open_to_a_shell() -> None:
    assert [line for line in commands() if _SPECIAL.search(_QUOTED.sub("", line))] == [], "quote the word"


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish"])
def test_a_shell_hands_the_words_over(shell: str, tmp_path: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"needs {shell}, which this machine lacks")
    log, here, witness = tmp_path / "log", tmp_path / "here", tmp_path / "bin" / "vgen"
    here.mkdir()
    witness.parent.mkdir()
    witness.write_text(WITNESS)
    witness.chmod(0o755)
    script = tmp_path / "script"
    script.write_text("\n".join(commands()) + "\n")
    environment = {"PATH": f"{witness.parent}:/usr/bin:/bin", "HOME": str(here), "LOG": str(log)}
    done = subprocess.run([found, str(script)], cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = [line.split("\037")[:-1] for line in log.read_text().split("\n")[:-1]]
    parts = [part for line in commands() for part in line.split(" && ")]
    assert told == [shlex.split(part)[1:] for part in parts]
