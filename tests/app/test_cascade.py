"""Clips drawn in stages: longer, with more frames between, each stage kept and taken up again."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vgen.app.cascade import CascadeStage, KeptStages, name_others
from vgen.app.generate import GenerateRun, clips_of, generate_files
from vgen.app.spellings import stacked
from vgen.app.terminal import Terminal
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.conditions.context_frames import CLEAN, GIVEN, GivenFrames, WhichFrames
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.methods import Recipe, assemble, name_of
from vgen.methods._cascade import FillsBetween, Follows, GoesOn, follows
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.align_your_latents import AlignYourLatents
from vgen.methods.make_a_video import MakeAVideo
from vgen.methods.make_a_video_upsampler import MakeAVideoUpsampler
from vgen.training import progress

PREDICTS, FILLS = GivenFrames(which=WhichFrames.FIRST, most=1), GivenFrames(which=WhichFrames.EVERY, factor=2)
FEW = SamplingOverrides(num_steps=1, guidance=1.0, width_px=32, height_px=32)


def drawn(fields: Mapping[str, Tensor], num_frames: int, part: str) -> Tensor:
    """What is given, and -1 elsewhere."""
    given, clean = fields[GIVEN], fields[CLEAN]
    assert clean.shape[1] == num_frames
    return torch.where(given[:, :, None, None, None], clean, -torch.ones(()))


def test_a_stage_goes_on_from_the_last_frames_until_there_are_enough() -> None:
    before = torch.arange(1.0, 4).view(1, 3, 1, 1, 1).expand(2, -1, 1, 1, 1)
    told: list[list[bool]] = []

    def watched(fields: Mapping[str, Tensor], num_frames: int, part: str) -> Tensor:
        told.append(fields[GIVEN][0].tolist())
        assert part == f"on/{len(told) - 1}"
        return drawn(fields, num_frames, part)

    out = GoesOn(most=2).drawn(watched, before, wanted=8, at_once=4)
    assert out[0].flatten().tolist() == [1, 2, 3, -1, -1, -1, -1, -1]
    assert told == [[True, True, False, False]] * 3
    assert GoesOn(most=2).frames(3, 0, 4) == 5
    one = GoesOn(most=2).drawn(drawn, before[:, :1], wanted=0, at_once=4)
    assert one[0].flatten().tolist() == [1, -1, -1, -1]


def test_a_stage_fills_between_every_two_and_keeps_them() -> None:
    before = torch.arange(1.0, 4).view(1, 3, 1, 1, 1)
    out = FillsBetween(factor=3).drawn(drawn, before, wanted=0, at_once=16)
    assert out.flatten().tolist() == [1, -1, -1, 2, -1, -1, 3]
    assert FillsBetween(factor=5).frames(16, 0, 16) == 76, "Make-A-Video's numbers"
    assert FillsBetween(factor=4).frames(FillsBetween(factor=4).frames(8, 0, 0), 0, 0) == 113, "the paper's"


@pytest.mark.parametrize(
    ("stage", "wanted"), [(GoesOn(2), 12), (GoesOn(3), 0), (GoesOn(4), 3), (FillsBetween(3), 0)]
)
def test_a_stage_knows_how_often_it_draws(stage: Follows, wanted: int) -> None:
    before, at_once, parts = torch.zeros(1, 3, 1, 1, 1), 5, list[str]()

    def counted(fields: Mapping[str, Tensor], num_frames: int, part: str) -> Tensor:
        parts.append(part)
        return drawn(fields, num_frames, part)

    stage.drawn(counted, before, wanted, at_once)
    assert stage.num_draws(3, wanted, at_once) == len(parts)


def test_a_stage_says_how_far_it_is(
    models: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    few = replace(FEW, num_steps=2)
    run = a_run(models, tmp_path / "a", ("on", 4), ("between", 0), sampling=few)
    clips_of(run, Terminal())
    told = [line for line in capsys.readouterr().out.splitlines() if ": step " in line]
    last = {line.split(":")[0]: line.split(",")[0] for line in told}
    assert last == {
        "stage first": "stage first: step 3 of 4",
        "stage on": "stage on: step 3 of 4",
        "stage between": "stage between: step 11 of 12",
    }


def test_only_a_model_of_given_frames_follows() -> None:
    assert follows(GivenFrames()) is None
    assert AlignYourLatents(context=PREDICTS).follows() == GoesOn(1)
    assert MakeAVideo(context=FILLS).follows() == FillsBetween(2)


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_what_no_stage_can_make_is_refused() -> None:
    refused(partial(GoesOn(2).frames, 9, 4, 8), "goes on from 9 frames and is to end with 4")
    refused(partial(GoesOn(2).frames, 3, 0, 2), "leaves none to draw; set its sampling.num_frames to 3")
    refused(partial(FillsBetween(4).frames, 5, 20, 8), "makes 17 of 5, got num_frames=20")
    refused(partial(FillsBetween(4).frames, 1, 0, 8), "give the stage before it 2 frames or more")
    refused(partial(CascadeStage, name="a b", file="x"), "a name and a file")
    refused(partial(CascadeStage, name="a", file="x", num_frames=-1), "must not be negative, got -1")
    refused(partial(GenerateRun, prompt="a", stages="x"), "there are none; give cascade.NAME.file=RUN")


def test_stages_are_spelt_as_slots_are() -> None:
    said = stacked(["cascade.on.file=A", "cascade.between.file=B", "cascade.on.num_frames=9"])
    assert said == ['cascade=[{name:on,file:"A",num_frames:9},{name:between,file:"B"}]']


# -- the command ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A backbone's folder, and an adapter of random layers for each stage."""
    folder = tmp_path_factory.mktemp("models")
    model = blank(Blank.TOYBOX, seed=0).freeze()
    save(model, folder / "backbone", torch.float32)
    model.source = str(folder / "backbone")
    recipes: dict[str, Recipe] = {
        "first": AlignYourLatents(),
        "on": AlignYourLatents(context=PREDICTS),
        "between": AlignYourLatents(context=FILLS),
        "larger": MakeAVideoUpsampler(),
    }
    named = {"backbone": str(folder / "backbone")}
    for name, recipe in recipes.items():
        torch.manual_seed(0)
        video_model = assemble(recipe, model)
        named_all = {f"unet.{n}": p.detach() for n, p in video_model.unet.named_parameters()}
        named_all |= {n: p.detach() for n, p in video_model.modules.named_parameters()}
        learnt = [name for pattern in recipe.learns() for name in fnmatch.filter(named_all, pattern)]
        tensors = {name: named_all[name] for name in learnt}
        card = Card.of(name_of(recipe), recipe, model, {}, {"num_frames": 3})
        named[name] = str(folder / f"{name}.safetensors")
        save_adapter(Path(named[name]), tensors, card)
        video_model.eject()
    return named


def a_run(models: dict[str, str], out: Path, *stages: tuple[str, int], **more: object) -> GenerateRun:
    settings: dict = {
        "prompt": "a red circle moves up",
        "num_clips": 2,
        "batch_size": 1,
        "adapter": models["first"],
        "backbone": models["backbone"],
        "sampling": FEW,
        "out": str(out),
        "cascade": [CascadeStage(name=name, file=models[name], num_frames=n) for name, n in stages],
    }
    return GenerateRun(**{**settings, **more})


def frames_of(out: Path) -> list[int]:
    found = []
    for path in sorted(out.glob("*.mp4")):
        with av.open(str(path)) as file:
            found.append(sum(1 for _ in file.decode(video=0)))
    return found


def test_a_cascade_ends_with_files_and_goes_on_from_its_stages(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, stages = tmp_path / "stages", [("on", 4), ("between", 0), ("larger", 0)]
    one = generate_files(a_run(models, tmp_path / "a", *stages, stages=str(kept)), {})
    assert frames_of(one) == [7, 7]
    assert capsys.readouterr().out.count("drawn") == 4
    names = sorted(path.name.partition("-")[0] for path in kept.iterdir())
    assert names == ["between", "first", "larger", "on"]
    shapes = {path.name.partition("-")[0]: load_file(path)["latents"].shape for path in kept.iterdir()}
    assert shapes["larger"][-1] == 2 * shapes["between"][-1] == 2 * shapes["first"][-1]
    for name in ("between", "larger"):
        next(kept.glob(f"{name}-*")).unlink()  # as a killed command leaves it
    two = generate_files(a_run(models, tmp_path / "b", *stages, stages=str(kept)), {})
    assert capsys.readouterr().out.count("was there") == 2
    for path in one.iterdir():
        assert (two / path.name).read_bytes() == path.read_bytes()
    generate_files(a_run(models, tmp_path / "c", *stages[:1], stages=str(kept), seed=7), {})
    assert "was there" not in capsys.readouterr().out, "another seed is another clip"


def test_a_stage_that_follows_nothing_is_refused_before_anything_is_drawn(
    models: dict[str, str], tmp_path: Path
) -> None:
    refused(
        partial(generate_files, a_run(models, tmp_path / "a", ("first", 0)), {}),
        "method align_your_latents and is given no frames; give a run that was trained to go on",
    )
    refused(
        partial(generate_files, a_run(models, tmp_path / "b", ("on", 0), ("on", 0)), {}),
        "two stages of the cascade are called on",
    )
    refused(
        partial(generate_files, a_run(models, tmp_path / "c", adapter=models["larger"]), {}),
        "draws none by itself; put it behind what draws one",
    )
    assert not list(tmp_path.iterdir()), "nothing stays of a command that is refused"


def test_a_stage_of_another_image_model_is_named(
    models: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    stages = [CascadeStage(name="on", file=models["on"])]
    own = load_adapter(Path(models["on"]))[1]
    name_others(stages, own.backbone_source, own.backbone)
    assert not caplog.messages
    name_others(stages, "another", "0123")
    assert "cascade.on.file=" in caplog.text
    assert "goes on from latents of another; where their VAEs differ it draws noise" in caplog.text


def test_a_damaged_stage_is_refused(tmp_path: Path) -> None:
    kept = KeptStages(tmp_path)
    kept.drawn("first", {"seed": 1}, partial(torch.zeros, 1, 2, 4, 2, 2))
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"none")
    refused(partial(kept.drawn, "first", {"seed": 1}, partial(torch.zeros, 1)), "holds no latents of a stage")
