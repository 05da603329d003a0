"""The verbs as functions: the guide's code runs, settings are those of the command line, and the caller's
process is left as it was."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
import typing
import warnings
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import vgen
from vgen.app import cli, composed
from vgen.app import train as training
from vgen.app.config import TrainRun, offer_training
from vgen.app.edit import EditRun
from vgen.app.edit import offer as offer_edits
from vgen.app.generate import GenerateRun
from vgen.app.generate import offer as offer_drawing
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.masactrl import MasaCtrl
from vgen.training.quiet import NOISY

VERBS = ("train", "generate", "edit", "evaluate", "prepare", "load")
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"


def test_the_package_loads_nothing_until_a_verb_is_asked_for() -> None:
    code = "import sys, vgen; assert 'torch' not in sys.modules; dir(vgen); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="has no attribute 'tain'"):
        vgen.tain  # noqa: B018


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_typed(verb: str) -> None:
    hints = typing.get_type_hints(getattr(vgen, verb))
    assert hints["return"] is not typing.Any
    assert set(inspect.signature(getattr(vgen, verb)).parameters) <= hints.keys()
    assert getattr(vgen, verb).__doc__
    assert verb in dir(vgen)


@pytest.mark.slow
def test_the_guides_code_runs_and_leaves_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = _process()
    scope: dict = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(code, str(GUIDE), "exec"), scope)
    assert _process() == before
    assert {path.name for path in tmp_path.glob("red.*")} == {"red.mp4", "red.gif", "red.png"}
    assert len(list((tmp_path / "drawn").glob("*.mp4"))) == 2
    assert OmegaConf.load("runs/first/config.yaml").method.motion.heads == AnimateDiff().motion.heads


def _process() -> tuple:
    root = logging.getLogger()
    levels = [logging.getLogger(name).level for name in NOISY]
    hydra = (GlobalHydra.instance().is_initialized(), HydraConfig.instance().cfg)
    return root.level, list(root.handlers), levels, list(warnings.filters), hydra, list(sys.argv)


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[TrainRun, dict]:
    """What ``vgen train`` hands to the training."""
    taken: list[tuple[TrainRun, dict]] = []
    monkeypatch.setattr(training, "train_aloud", lambda run, plain: taken.append((run, plain)))
    monkeypatch.setattr("sys.argv", ["vgen", "train", *arguments])
    assert cli.run("train", list(arguments)) == 0
    return taken[0]


def test_keywords_are_the_keys_of_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = 'a, "b" [c] \\ = ~'
    told, plain = command_line(
        monkeypatch,
        "method=tune_a_video",
        "method.frames=[first]",
        f"backbone={tmp_path}",
        "optim.lr=1e-05",
        "trainer=cpu",
        "run.init_from=null",
        f"data.path={tmp_path}",
    )
    keys = {
        "method": "tune_a_video",
        "method.frames": ["first"],
        "backbone": tmp_path,
        "optim": {"lr": 1e-5},
        "trainer": "cpu",
        "run": {"init_from": None},
        "data": {"path": tmp_path},
    }
    found = composed.settings("train", TrainRun, offer_training, keys)
    assert found == told
    assert training.plain_of(training.asdict(found)) == plain, "what is kept is the same"
    drawn = composed.settings("generate", GenerateRun, offer_drawing, {"prompt": odd})
    assert drawn.prompt == odd


def test_a_verb_sees_its_own_choices_alone() -> None:
    """Those of an edit are others than those of a training, and both are of one process."""
    edit = composed.settings("edit", EditRun, offer_edits, {"method": "masactrl", "video": "a.mp4"})
    assert edit.method == MasaCtrl()
    again = composed.settings("train", TrainRun, offer_training, {"data": "toybox"})
    assert again.data.path == "data/toybox_corpus"
    with pytest.raises(ValueError, match="method=dreamartist is not an option"):
        composed.settings("edit", EditRun, offer_edits, {"method": "dreamartist"})


def test_a_recipe_is_given_as_it_is(tmp_path: Path) -> None:
    recipe = AnimateDiff(text_drop=0.3)
    found = composed.settings("train", TrainRun, offer_training, {"method": recipe, "data.path": tmp_path})
    assert found.method == recipe


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"promt": "a"}, "promt is not a key.*did you mean prompt"),
        ({"sampling": {"num_step": 3}}, r"sampling\.num_step is not a key.*sampling\.num_steps"),
        ({"prompt": "a", "fps": 0}, r"fps must lie in 0\.01\.\.240"),
        ({"prompt": "a", "seed": object()}, "a setting is text, a number, a list or a section, got <object"),
    ],
)
def test_refusals_are_the_command_lines(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vgen.generate(**keys)


def test_a_dataclass_stands_alone() -> None:
    with pytest.raises(ValueError, match="give a GenerateRun or keys, not both; got seed beside it"):
        vgen.generate(GenerateRun(prompt="a"), seed=3)
    with pytest.raises(ValueError, match="give a TrainRun or its keys as keywords, got GenerateRun"):
        vgen.train(GenerateRun(prompt="a"))


def test_several_devices_are_for_the_command_line() -> None:
    with pytest.raises(ValueError, match=r"cannot be the 2 processes of trainer\.strategy=ddp; start it"):
        vgen.train(data={"path": "x"}, trainer={"strategy": "ddp", "devices": 2, "accelerator": "cpu"})


def test_a_model_draws_at_the_sizes_that_are_asked(tmp_path: Path) -> None:
    model = vgen.load(device="cpu")
    clip = model.draw("a red circle", num_frames=2, num_steps=1, width_px=32, height_px=32)
    assert clip.video.shape == (2, 32, 32, 3)
    same = vgen.generate(
        GenerateRun(
            prompt="a red circle",
            sampling=SamplingOverrides(num_frames=2, num_steps=1, width_px=32, height_px=32),
        )
    )
    assert (same[0].video == clip.video).all()
    assert not list(tmp_path.iterdir()), "nothing is written unasked"
