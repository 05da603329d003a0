"""Settings from elsewhere are data: they execute nothing, lead nowhere outside and carry no secret away."""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vgen.app import cli
from vgen.app.secrecy import refuse_secrets, without_passwords
from vgen.app.trust import refuse_programs

CANARY = "canary-7f3a9c51e0"
TINY = [
    "backbone=blank",
    "backbone.blank=toybox",
    "trainer=cpu",
    "trainer.num_threads=1",
    "data.window.num_frames=2",
    "debug=smoke",
    "trainer.max_steps=1",
    "trainer.preflight=false",
]


@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in this process; gives its exit code."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)
    for name in ("HYDRA_FULL_ERROR", "VGEN_RUN_STAMP", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("VGEN_TRACEBACK", raising=False)
    return lambda verb, *arguments: cli.run(verb, list(arguments))


def experiment(text: str) -> list[str]:
    """An experiment of another person, and the arguments that use it."""
    Path("theirs/experiment").mkdir(parents=True)
    Path("theirs/experiment/nice.yaml").write_text(f"# @package _global_\n{text}")
    return ["--config-dir", "theirs", "experiment=nice"]


def program(where: str) -> str:
    """YAML that calls os.mkdir at ``where``."""
    lines = where.split(".")
    body = [f"{'  ' * i}{name}:" for i, name in enumerate(lines)]
    inner = "  " * len(lines)
    return "\n".join([*body, f"{inner}_target_: os.mkdir", f"{inner}path: executed"]) + "\n"


POISONED = {
    "a callback": (program("hydra.callbacks.x"), "hydra.callbacks.x._target_=os.mkdir names a program"),
    "a launcher": (
        "hydra:\n  launcher:\n    _target_: os.mkdir\n",
        "hydra.launcher._target_=os.mkdir names a program",
    ),
    "a sampler within a sweeper": (program("hydra.sweeper.sampler"), "hydra.sweeper.sampler is not a key"),
    "a section of vgen's": (program("optim"), "optim._target_ is not a key"),
    "a section of its own": (program("mine"), "mine is not a key"),
    "a callback that a string unfolds to": (
        "hydra:\n  callbacks: \"${oc.create:'{x: {_target_: os.mkdir, path: executed}}'}\"\n",
        "hydra.callbacks.x._target_=os.mkdir names a program",
    ),
    "what is no YAML": ("a: b: c\n", "nice.yaml, line 2 is no YAML (mapping values are not allowed here)"),
    "a logger's factory": (
        "hydra:\n  job_logging:\n    handlers:\n      x:\n        (): os.mkdir\n        path: executed\n",
        "hydra.job_logging would set up loggers by name",
    ),
    "loggers that a string unfolds to": (
        "hydra:\n  job_logging: \"${oc.create:'{version: 1, root: {handlers: [x]}}'}\"\n",
        "hydra.job_logging would set up loggers by name",
    ),
    "the environment of its processes": (
        "hydra:\n  job:\n    env_set:\n      PYTHONPATH: executed\n",
        "hydra.job.env_set would change the environment",
    ),
    "a secret": (
        "run:\n  name: ${oc.env:WANDB_API_KEY}\n",
        "${oc.env:WANDB_API_KEY} names a secret, and settings are written",
    ),
    "a secret behind a default": (
        "run:\n  name: ${oc.env:NOWHERE,${oc.env:HF_TOKEN}}\n",
        "${oc.env:HF_TOKEN} names a secret",
    ),
    "a secret under a harmless name": (
        "run:\n  name: ${oc.env:HARMLESS}\n",
        "run.name holds the secret of the environment variable ",
    ),
    "a variable that is not set": (
        "run:\n  name: ${oc.env:NOWHERE}\n",
        "${oc.env:NOWHERE} is not set; set it",
    ),
}


@pytest.mark.parametrize("attack", POISONED)
def test_a_poisoned_experiment_is_refused_in_one_sentence(vgen, tmp_path, monkeypatch, capfd, attack):
    text, message = POISONED[attack]
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HARMLESS"):
        monkeypatch.setenv(name, CANARY)
    assert vgen("train", *experiment(text)) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1), f"one sentence, no traceback: {err}"
    assert CANARY not in err
    assert not list(tmp_path.rglob("executed"))
    assert [path.name for path in Path().iterdir()] == ["theirs"], "nothing was written"


@pytest.mark.parametrize("verb", ["train", "generate", "evaluate", "edit", "export", "prepare"])
def test_overrides_of_every_verb_are_guarded(vgen, capfd, verb):
    arguments = ["+hydra.callbacks.x._target_=os.mkdir", "+hydra.callbacks.x.path=executed"]
    assert vgen(verb, *arguments) == 2
    assert "hydra.callbacks.x._target_=os.mkdir names a program" in capfd.readouterr().err
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.run.dir=../executed"], "hydra.run.dir=../executed leads out"),
        (["hydra.output_subdir=/executed"], "hydra.output_subdir=/executed leads out"),
        (["run.dir=../executed", "hydra.sweep.dir=${run.dir}"], "hydra.sweep.dir=../executed leads out"),
    ],
)
def test_hydra_writes_nowhere_outside(vgen, tmp_path, capfd, arguments, message):
    assert vgen("train", *arguments) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("postgresql://me:secret@far/studies", "names a server, in a file"),
        ("sqlite:////executed.db", "hydra.sweeper.storage=/executed.db leads out"),
        ("sqlite:///../executed.db", "hydra.sweeper.storage=../executed.db leads out"),
    ],
)
def test_studies_of_a_file_from_elsewhere_stay_inside(place, message):
    def settings(storage: str | None) -> DictConfig:
        return OmegaConf.create({"hydra": {"sweeper": {"storage": storage}}})

    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        refuse_programs(settings(place))
    assert "secret" not in str(refused.value)
    for inside in (None, "sqlite:///studies.db"):
        refuse_programs(settings(inside))


def test_who_types_the_place_of_studies_may_choose_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vgen", "hydra.sweeper.storage=sqlite:////mine.db"])
    refuse_programs(OmegaConf.create({"hydra": {"sweeper": {"storage": "sqlite:////mine.db"}}}))


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_pickled_run_is_not_repeated(vgen, capfd):
    Path("run.pickle").write_bytes(pickle.dumps(Bomb()))
    assert vgen("train", "--experimental-rerun=run.pickle") == 2
    assert "--experimental-rerun reads a pickle, which can execute code" in capfd.readouterr().err
    assert not Path("executed").exists()


def test_a_planted_secret_is_in_no_file_and_no_line_of_a_run(vgen, toy_shards, tmp_path, monkeypatch, capfd):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD"):
        monkeypatch.setenv(name, CANARY)
    more = ["run.name=a", f"data.path={toy_shards}", f"logger.group=https://me:{CANARY[:9]}@host/x"]
    assert vgen("train", *TINY, *more) == 0
    said = "".join(capfd.readouterr())
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert {"config.yaml", "adapter.safetensors"} <= {path.name for path in files}
    holding = [str(path) for path in files if CANARY[:9].encode() in path.read_bytes()]
    assert (holding, CANARY[:9] in said) == ([], False)
    assert "https://host/x" in Path("runs/a/config.yaml").read_text()


def test_a_place_of_secrets_is_none_and_short_words_are_found_anywhere(tmp_path):
    settings = {"data": {"path": f"{tmp_path}/shards", "names": ["true", 3]}}
    refuse_secrets(settings, {"SECRETS_DIR": str(tmp_path), "KEY_MODE": "true"})
    with pytest.raises(
        ValueError, match=r"data\.names\.0 holds the secret of the environment variable MY_TOKEN"
    ):
        refuse_secrets({"data": {"names": [f"x{CANARY}"]}}, {"MY_TOKEN": CANARY})
    addresses = {"a": ["https://me:word@host/x?y=1", "s3://bucket/key@2", "me@host", "ftp://a:b@c@d"]}
    assert without_passwords(addresses) == {
        "a": ["https://host/x?y=1", "s3://bucket/key@2", "me@host", "ftp://d"]
    }
