"""A misspelt command line is answered in one sentence, before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vgen.app.early import KEYS, MEANT, check

ROOT = Path(__file__).parents[2]

SAID = {
    "dashes": ("generate", ["--prompt", "a cat"], "without dashes: prompt='a cat'"),
    "dashes, joined": ("generate", ["--prompt=a cat"], "without dashes: prompt='a cat'"),
    "dashes within": ("train", ["--data.path", "x"], "without dashes: data.path=x"),
    "another program's": ("train", ["--learning-rate=1e-4"], "without dashes: optim.lr=1e-4"),
    "dashes without a value": ("train", ["--data.path"], "without dashes: data.path=VALUE"),
    "a stray sentence": ("generate", ["a cat"], "'a cat' is no key=value; write KEY=VALUE"),
    "a misspelt key": ("train", ["trainer.max_step=3"], "did you mean trainer.max_steps?"),
    "a key's meaning": (
        "train",
        ["optim.learning_rate=1"],
        "optim.learning_rate is not a key; did you mean optim.lr",
    ),
    "its meaning alone": ("train", ["resolution=256"], "data.size_px"),
    "its last word alone": ("train", ["lr=1e-4"], "did you mean optim.lr"),
    "a method's": ("train", ["method.heads_=1"], "is not a key of any method"),
    "guidance": ("generate", ["guidance_scale=7"], "did you mean sampling.guidance"),
    "steps": ("generate", ["num_inference_steps=7"], "did you mean sampling.num_steps"),
    "nothing near": ("generate", ["zzz.qqq=1"], "zzz.qqq is not a key; the top level has adapter"),
    "the section's keys": ("train", ["optim.zzz=1"], "optim.zzz is not a key; optim has optim.betas"),
    "a folder that is not there": ("train", ["data.path=no/such"], "data.path=no/such is no folder"),
}


@pytest.mark.parametrize(("verb", "arguments", "sentence"), SAID.values(), ids=SAID.keys())
def test_one_sentence(verb: str, arguments: list[str], sentence: str) -> None:
    told = check(verb, arguments)
    assert told is not None
    assert sentence in told
    assert "\n" not in told


def test_a_wrong_folder_is_called_one_and_the_right_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "file").touch()
    assert f"did you mean {tmp_path / 'videos'}?" in check("train", [f"data.path={tmp_path / 'vidoes'}"])
    assert "is a file, not a folder" in check("train", [f"data.path={tmp_path / 'file'}"])
    assert check("train", [f"data.path={tmp_path / 'videos'}"]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["prompt=a cat", "sampling.num_steps=3", "adapter=shipped"],
        ["-m", "seed=1,2", "hydra.sweep.dir=x", "hydra/sweeper=basic"],
        ["--cfg", "job", "--resolve", "prompt=x"],
        [],
        ["-cn", "other", "~stack", "+stack=[]", "++prompt=x"],
    ],
)
def test_what_hydra_reads_is_left_to_it(arguments: list[str]) -> None:
    assert check("generate", arguments) is None


@pytest.mark.parametrize("name", sorted(path.stem for path in (Path("conf") / "experiment").glob("*.yaml")))
def test_groups_and_their_choices_are_left_to_hydra(name: str) -> None:
    choices = ["data=toybox", "trainer=cpu", "method=animatediff", "method.motion.heads=4", "debug=smoke"]
    assert check("train", [f"experiment={name}", *choices]) is None


def test_the_file_of_keys_is_that_of_the_types() -> None:
    """Write it anew with ``python -m vgen.app.known_keys``. In a process of its own: tests offer keys that no
    command has."""
    script = "from vgen.app import known_keys; raise SystemExit(known_keys.found() != known_keys.read())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == 0, "run 'python -m vgen.app.known_keys'"


def test_every_meaning_names_a_key() -> None:
    words = {key.rpartition(".")[2] for keys in json.loads(KEYS.read_text()).values() for key in keys}
    assert set(MEANT) <= words


def test_it_answers_without_torch() -> None:
    script = (
        "import sys; sys.argv = ['vgen', 'train', 'trainer.max_step=3']\n"
        "from vgen.app.cli import main\n"
        "code = main()\n"
        "print(code, [name for name in ('torch', 'hydra', 'numpy', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["2", "[]"], done.stderr
