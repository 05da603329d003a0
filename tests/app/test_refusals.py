"""What people read when Hydra or OmegaConf refuses: the key, what is wrong, what would be right."""

import errno
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from vgen.app.refusals import refusal


class Precision(Enum):
    bf16 = 1
    fp32 = 2


@dataclass
class Trainer:
    precision: Precision = Precision.fp32
    max_steps: int = 3


@dataclass
class Run:
    names: list[str] = field(default_factory=list)
    trainer: Trainer = field(default_factory=Trainer)
    method: dict = field(default_factory=dict)
    out: str = MISSING


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Composes a small run with overrides, as the verbs do; the working part of hydra.main."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "animatediff.yaml").write_text("heads: 8\n")
    (tmp_path / "method" / "lumiere.yaml").write_text("heads: 4\n")
    (tmp_path / "run.yaml").write_text(
        "defaults:\n  - test_refusals_run\n  - method: animatediff\n  - _self_\n"
    )
    ConfigStore.instance().store("test_refusals_run", Run)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield lambda *overrides: hydra.compose("run", list(overrides))


REFUSED = {
    "trainer.max_step=3": "trainer.max_step is not a key; did you mean trainer.max_steps? trainer has "
    "trainer.max_steps, trainer.precision",
    "mehtod=lumiere": "mehtod is not a key; did you mean method? the top level has method, names, out, "
    "trainer",
    "method.head=3": "method.head is not a key; did you mean method.heads? method has method.heads",
    "method=animatedif": "method=animatedif is not an option; did you mean animatediff? method can be "
    "animatediff, lumiere",
    "trainer.precision=bf17": "trainer.precision: Invalid value 'bf17', expected one of [bf16, fp32]",
    "trainer.max_steps=many": "trainer.max_steps: Value 'many' of type 'str' could not be converted to "
    "Integer",
    "names=a": "names takes a list; write names=[A,B], or names=[A] for one",
    "names={a:1}": "names takes a list; write names=[A,B], or names=[A] for one",
    "out=[a": "'out=[a' cannot be read as key=value",
    "trainer.max_steps=3,4": "'trainer.max_steps=3,4' has several values; add -m for a run of each, write "
    "key=[A,B] for a list",
}


@pytest.mark.parametrize(("override", "sentence"), REFUSED.items())
def test_a_wrong_override_says_what_would_be_right(compose, override: str, sentence: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  Hydra's and OmegaConf's have no common ancestor
        compose(override)
    said = refusal(caught.value)
    assert said.startswith(sentence)
    assert "\n" not in said


def test_a_missing_value_is_named(compose) -> None:
    config = compose()
    with pytest.raises(MissingMandatoryValue) as caught:
        OmegaConf.to_object(config)
    assert refusal(caught.value) == "out has no default and needs a value: out=..."


def test_what_is_not_a_refusal_is_left_alone() -> None:
    assert refusal(RuntimeError("boom")) is None
    assert refusal(ValueError("raised by nobody")) is None


def test_a_place_that_cannot_be_written_to_is_a_refusal(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "file" / "out").mkdir()
    assert (
        refusal(caught.value)
        == f"{tmp_path}/file/out can't be written to (Not a directory); choose another place or make room "
        "there"
    )
    full = refusal(OSError(errno.ENOSPC, "No space left on device"))
    assert full == "writing failed (No space left on device); choose another place or make room there"
    assert refusal(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None
