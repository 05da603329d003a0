"""Every command of README.md, of docs/methods.md and of the help pages that Hydra reads becomes a typed run,
as it is typed there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vgen.app import cli, config
from vgen.app.methods import told
from vgen.app.verbs import VERBS

HYDRA = [name for name, verb in VERBS.items() if verb.hydra]


def _commands() -> list[str]:
    """From ``vgen`` on, continued lines joined; what goes on with an ellipsis is no command."""
    blocks = re.findall(
        r"```bash\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [example.replace("\\\n", " ") for verb in VERBS.values() for example in verb.examples]
    lines += [own.command for own in told().values()]
    found = []
    for command in (part for line in lines for part in line.split(" && ")):
        words = shlex.split(re.sub(r"^torchrun .*-m vgen\.app\.", "vgen ", command), comments=True)
        if words[:1] == ["vgen"] and words[1] in HYDRA and "..." not in words:
            found.append(shlex.join(words[1:]))
    return list(dict.fromkeys(found))


@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in this process up to its typed run; gives the exit code and the runs."""
    runs: list[object] = []
    for folder in (
        "data/mine",
        "data/clips",
        "models/sd15",
        "theirs",
    ):  # a folder that is not there is refused
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(config, "_act", lambda cfg, action: runs.append(OmegaConf.to_object(cfg)))
    return lambda words: (cli.run(words[0], words[1:]), runs)


def test_the_commands_are_found() -> None:
    assert {command.split()[0] for command in _commands()} == set(HYDRA)


@pytest.mark.parametrize("command", _commands())
def test_a_written_command_is_a_run(vgen, command: str) -> None:
    status, runs = vgen(shlex.split(command))
    assert status == cli.DONE
    assert runs


def test_the_first_command_names_the_home_folder(vgen, tmp_path: Path) -> None:
    _, (run,) = vgen(["prepare", "data.path=~/videos", "out=data/mine"])
    assert run.data.path == f"{tmp_path}/videos"
