"""vgen edit: from a file and two prompts to files, and what each mistake says. One-shot tuning first where
the method needs it."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from rich.console import Console

from vgen.app import edit as edit_command
from vgen.app.control_net import ControlNetRun, Structure
from vgen.app.edit import EditRun, Extra, _session, edit, edit_files
from vgen.app.edit_plan import plan
from vgen.app.edit_remarks import remark
from vgen.app.loading import UNTRAINED
from vgen.app.verbs import VERBS
from vgen.attention.store import Place, StoreSpec
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.data.clip_files import write_mp4
from vgen.data.decode import Cut
from vgen.data.one_clip import read_clip
from vgen.diffusion.frames import Sliding
from vgen.diffusion.inversion import NullText
from vgen.formats.adapter import load_adapter
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.fatezero import FateZero
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.methods.tune_a_video import TuneAVideo
from vgen.toybox.oracle import read
from vgen.toybox.scenes import Colour, Motion, Shape

SOURCE, TARGET = (
    "a large red circle rests on a black background",
    "a large blue circle rests on a black background",
)
FRAMES = 4


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone") / "model"
    save(blank(Blank.TOYBOX, seed=0).freeze(), folder, torch.float32)
    return str(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    frames = np.zeros((10, 64, 64, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[20:40, 2 * i : 2 * i + 20] = (220, 40, 40)
    return str(write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, 8.0))


FILES = {"edited.mp4", "edited.gif", "edited.png", "side_by_side.mp4", "card.json"}


def wish(video: str, backbone: str, **how) -> EditRun:
    few = SamplingOverrides(num_steps=2)
    how = {
        "method": FateZero(),
        "sampling": few,
        "source": SOURCE,
        "target": TARGET,
        "num_frames": FRAMES,
    } | how
    return EditRun(video=video, backbone=backbone, **how)


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_an_edit_is_files_that_people_open(video: str, backbone: str, tmp_path: Path) -> None:
    out = edit_files(
        wish(
            video,
            backbone,
            blend=["circle"],
            save=[Extra.RECONSTRUCTION, Extra.MASK],
            out=str(tmp_path / "edit"),
        ),
        {},
    )
    assert {p.name for p in out.iterdir()} == {
        "edited.mp4",
        "edited.gif",
        "edited.png",
        "side_by_side.mp4",
        "reconstruction.mp4",
        "mask.mp4",
        "card.json",
    }
    assert frames_of(out / "edited.mp4").shape == (FRAMES, 256, 256, 3)
    assert frames_of(out / "side_by_side.mp4").shape == (FRAMES, 256 + 28, 4 * 256 + 3 * 8, 3)
    card = json.loads((out / "card.json").read_text())
    assert card["method_name"] == "fatezero"
    assert card["sampling"]["num_steps"] == 2
    assert card["report"]["ceiling_psnr"] > 5
    assert card["report"]["store_bytes"] > 0
    assert {"edited_psnr", "unrelated_psnr", "edited_from_reconstruction_psnr"} < card["report"].keys()
    with Image.open(out / "edited.gif") as gif, Image.open(out / "edited.png") as grid:
        assert (gif.n_frames, gif.size, grid.size) == (FRAMES, (256, 256), (8 * 128, 128))
    assert card["report"]["peak_gib"] > 0
    with pytest.raises(ValueError, match="is not empty"):
        edit_files(wish(video, backbone, out=str(out)), {})


def test_two_edits_never_write_into_one_folder(
    video: str, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one starts while the first is at work; one that is refused leaves no folder."""
    work = edit_command.edit

    def meanwhile(*arguments):
        monkeypatch.setattr(edit_command, "edit", work)
        with pytest.raises(ValueError, match=r"another run draws into out=.*; choose another folder"):
            edit_files(wish(video, backbone, out=str(tmp_path / "edit")), {})
        return work(*arguments)

    monkeypatch.setattr(edit_command, "edit", meanwhile)
    out = edit_files(wish(video, backbone, out=str(tmp_path / "edit")), {})
    assert {p.name for p in out.iterdir()} == FILES
    with pytest.raises(ValueError, match="size_px must be a multiple of 16"):
        edit_files(wish(video, backbone, size_px=50, out=str(tmp_path / "refused")), {})
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("wrong", [{"guidance": math.nan}, {"guidance": -1.0}, {"num_steps": 0}])
def test_numbers_of_sampling_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(
        ValueError, match=r"guidance must be a number that is not negative|num_steps of at least 1"
    ):
        SamplingOverrides(**wrong)


@pytest.mark.parametrize("method", [FateZero, PromptToPrompt, TuneAVideo])
def test_fixed_point_steps_are_not_negative(method: type) -> None:
    with pytest.raises(ValueError, match="fixed_point_steps must not be negative, got -1"):
        method(fixed_point_steps=-1)


def test_five_lines_of_python(video: str, backbone: str, tmp_path: Path) -> None:
    program = f"""
from vgen.app.edit import EditRun, edit
from vgen.methods import SamplingOverrides
from vgen.methods.fatezero import FateZero
done = edit(EditRun(method=FateZero(), sampling=SamplingOverrides(num_steps=2), video={video!r}, source={SOURCE!r}, target={TARGET!r}, backbone={backbone!r}))
done.save({str(tmp_path / "edit")!r})
"""  # noqa: E501
    assert len(program.strip().splitlines()) <= 5
    run = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", program], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert {p.name for p in (tmp_path / "edit").iterdir()} == FILES


def test_from_python_as_from_the_command_line(video: str, backbone: str, tmp_path: Path) -> None:
    done = edit(wish(Path(video), backbone, save=[Extra.RECONSTRUCTION]))
    assert done.video.shape == done.source.shape == (FRAMES, 64, 64, 3)
    assert done.video.dtype == np.uint8
    asked = wish(video, backbone, save=[Extra.RECONSTRUCTION], out=str(tmp_path / "command"))
    for folder in (done.save(tmp_path / "python"), edit_files(asked, {})):
        assert (folder / "reconstruction.mp4").stat().st_size > 0
    frames = [frames_of(tmp_path / side / "edited.mp4") for side in ("python", "command")]
    assert np.array_equal(*frames)
    with pytest.raises(
        ValueError, match="python is not empty; choose another folder, nothing is overwritten"
    ):
        done.save(tmp_path / "python")
    with pytest.raises(ValueError, match=r"an edit needs a method, as EditRun\(method=METHOD"):
        edit(EditRun(video=video, source=SOURCE, target=TARGET))


def test_the_plan_is_shown_before_minutes_are_spent(video: str, backbone: str) -> None:
    run = wish(
        video,
        backbone,
        sampling=SamplingOverrides(num_steps=10),
        cross_replace_steps=["blue:0.4"],
        amplify=["black:2"],
        blend=["circle"],
    )
    session, _ = _session(run, run.method, run.wish(), lambda *_: None)
    assert plan(session, run.method).startswith(
        "fatezero: 4 frames at once, 10 steps; replaces red -> blue; "
        "cross-attention of the source in steps 1-8 of 10, blue 1-4 of 10; "
        "amplifies black x2 in steps 1-8 of 10; changes only where circle is; "
    )


def test_a_long_clip_is_edited_in_windows(video: str, backbone: str) -> None:
    run = wish(
        video,
        backbone,
        method=FateZero(),
        num_frames=8,
        window=Sliding(num_frames=4, overlap=1),
        blend=["circle"],
    )
    done = edit(run)
    assert done.video.shape == (8, 64, 64, 3)
    session, _ = _session(run, run.method, run.wish(), lambda *_: None)
    told = plan(session, run.method)
    assert (
        "8 frames in 3 windows of 4 that overlap by 1 or more and are averaged at every step "
        "(window.num_frames=0 for all" in told
    )
    assert f"{done.report['store_bytes'] / 2**20:.0f} MiB" in told, "the plan's arithmetic is what is kept"
    alone = PromptToPrompt()
    assert "prompt_to_prompt: 8 frames one by one" in plan(session, alone)


def control_net(backbone: str) -> ControlNetModel:
    """One that is heard: its outputs are not born zero."""
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(backbone, subfolder="unet"))
    for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(conv.weight, std=0.3)
    return net


@pytest.mark.slow
def test_a_control_net_from_the_command_line(video: str, backbone: str, tmp_path: Path) -> None:
    """As from Python, of files; and one that fits nothing is named."""
    net, edges = (
        control_net(backbone),
        np.random.default_rng(0).integers(0, 255, (FRAMES, 128, 128, 3), dtype=np.uint8),
    )
    net.save_pretrained(tmp_path / "net")
    shown = write_mp4(tmp_path / "edges.mp4", edges, 8.0)
    asked = [f"control_net.path={tmp_path / 'net'}", f"control_net.video={shown}"]
    command = [
        sys.executable,
        "-m",
        "vgen",
        "edit",
        "method=fatezero",
        "sampling.num_steps=2",
        f"video={video}",
        f"source={SOURCE}",
        f"target={TARGET}",
        f"num_frames={FRAMES}",
        f"backbone={backbone}",
        f"out={tmp_path / 'edit'}",
    ]
    done = subprocess.run([*command, *asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a ControlNet beside the UNet" in done.stdout
    seen = read_clip(shown, Cut(fps=8.0, num_frames=FRAMES, size_px=128))
    structure = Structure(
        net=net.eval().requires_grad_(False),
        pictures=torch.from_numpy(seen).permute(0, 3, 1, 2)[None].float() / 255,
    )
    run = wish(video, backbone, method=FateZero())
    files = wish(
        video,
        backbone,
        method=FateZero(),
        control_net=ControlNetRun(path=tmp_path / "net", video=shown),
    )
    assert np.array_equal(edit(run, structure=structure).video, edit(files).video)
    assert not np.array_equal(edit(run).video, edit(files).video)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"path": "net"}, r"needs its weights and what it is shown.*got path=.*net, video=nothing"),
        (
            {"path": "unet", "video": "edges.mp4"},
            r"is of class UNet2DConditionModel; give a folder in diffusers' layout",
        ),
        ({"path": "nowhere", "video": "edges.mp4"}, r"nowhere is without config.json"),
        ({"path": "pickled", "video": "edges.mp4"}, r"is a ControlNetModel without safetensors"),
        ({"path": "net", "video": "short.mp4"}, r"short.mp4 can't be used, too short"),
        ({"path": "narrow", "video": "edges.mp4"}, r"belongs to another image model \(block_out_channels"),
    ],
)
def test_a_control_net_that_does_not_fit_speaks(
    video: str, backbone: str, tmp_path: Path, asked: dict[str, str], message: str
) -> None:
    net = control_net(backbone)
    net.save_pretrained(tmp_path / "net")
    net.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    ControlNetModel.from_config({**net.config, "block_out_channels": (16, 16, 16)}).save_pretrained(
        tmp_path / "narrow"
    )
    UNet2DConditionModel.from_pretrained(backbone, subfolder="unet").save_pretrained(tmp_path / "unet")
    for name, frames in (("edges", FRAMES), ("short", 1)):
        write_mp4(tmp_path / f"{name}.mp4", np.zeros((frames, 64, 64, 3), np.uint8), 8.0)
    with pytest.raises(ValueError, match=message):
        edit(
            wish(
                video,
                backbone,
                control_net=ControlNetRun(**{key: tmp_path / name for key, name in asked.items()}),
            )
        )


def test_a_control_net_from_python(video: str, backbone: str) -> None:
    net = control_net(backbone)
    edges = torch.rand(1, FRAMES, 3, 128, 128)
    structure = Structure(net=net.eval().requires_grad_(False), pictures=edges)
    with_it, without = edit(wish(video, backbone), structure=structure), edit(wish(video, backbone))
    assert with_it.video.shape == without.video.shape
    assert not np.array_equal(with_it.video, without.video)
    assert np.array_equal(
        edit(wish(video, backbone), structure=replace(structure, scale=0.0)).video, without.video
    )
    with pytest.raises(ValueError, match="must be one per frame of the clip, 3 of 128 x 128 px"):
        edit(wish(video, backbone, num_frames=3), structure=structure)


def test_without_a_video_the_source_is_drawn(backbone: str, tmp_path: Path) -> None:
    out = edit_files(
        wish("", backbone, method=PromptToPrompt(), num_frames=1, out=str(tmp_path / "edit")), {}
    )
    assert frames_of(out / "side_by_side.mp4").shape == (1, 256 + 28, 2 * 256 + 8, 3)
    assert "ceiling_psnr" not in json.loads((out / "card.json").read_text())["report"]
    with pytest.raises(ValueError, match="method=fatezero edits a clip that exists; give video=FILE"):
        edit(wish("", backbone))


def test_a_poor_reconstruction_is_told_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    remark(Console(width=400), {"reconstruction_psnr": 11.04, "ceiling_psnr": 26.5})
    assert "the source is not given back well (11.0 dB against 26.5 dB)" in capsys.readouterr().out
    remark(Console(width=400), {"reconstruction_psnr": 9.6, "ceiling_psnr": 10.8})
    assert (
        "this image model can't show the clip: its encoder and decoder alone give 10.8 dB"
        in capsys.readouterr().out
    )
    remark(Console(width=400), {"reconstruction_psnr": 24.0, "ceiling_psnr": 26.5})
    assert capsys.readouterr().out.splitlines() == ["reconstruction 24.0 dB, the decoder alone 26.5 dB"]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((29.0, 20.0), "the edit changed nothing: it is 29.0 dB from the clip or its reconstruction"),
        ((18.0, 28.7), "the edit changed nothing: it is 28.7 dB from the clip or its reconstruction"),
        ((9.0, 9.0), "the edit kept nothing of the clip: it is 9.0 dB from it, and a clip with the same"),
        ((18.0, 20.0), ""),
    ],
)
def test_an_edit_that_changed_or_kept_nothing_is_told(
    figures: tuple[float, float], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {"edited_psnr": figures[0], "edited_from_reconstruction_psnr": figures[1]}
    remark(Console(width=400), report | {"unrelated_psnr": 11.0, "ceiling_psnr": 28.5})
    assert said in capsys.readouterr().out
    if not said:
        assert "nothing" not in capsys.readouterr().out


def test_phases_are_told(video: str, backbone: str) -> None:
    phases: list[str] = []
    recipe = PromptToPrompt(null_text=NullText(inner_steps=1))
    edit(wish(video, backbone, method=recipe, num_frames=1), lambda phase, done, total: phases.append(phase))
    assert list(dict.fromkeys(phases)) == ["invert", "null text", "edit", "decode"]


def test_frames_one_by_one_fill_one_bar(video: str, backbone: str) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    recipe = PromptToPrompt(null_text=NullText(inner_steps=0))
    run = wish(video, backbone, method=recipe, num_frames=3)
    edit(run, lambda phase, done, total: told.setdefault(phase, []).append((done, total)))
    assert told["invert"] == told["edit"] == [(done, 6) for done in range(1, 7)]


def test_a_picture_is_edited_too(backbone: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((90, 120, 3), 200, np.uint8)).save(path)
    recipe = PromptToPrompt(null_text=NullText(inner_steps=0))
    assert edit(wish(str(path), backbone, method=recipe, num_frames=1)).video.shape == (1, 64, 64, 3)
    with pytest.raises(ValueError, match="is a picture, and 4 frames were asked for"):
        edit(wish(str(path), backbone))


@pytest.mark.slow
def test_tuned_on_one_clip_then_edited(video: str, backbone: str, tmp_path: Path) -> None:
    """The command line from end to end; FateZero edits shapes on the same checkpoint."""
    command = [
        sys.executable,
        "-m",
        "vgen.app.train",
        "method=tune_a_video",
        "data=clip",
        f"data.video={video}",
        f"data.prompt={SOURCE}",
        f"data.window.num_frames={FRAMES}",
        f"backbone.path={backbone}",
        "trainer=cpu",
        "trainer.max_steps=2",
        "optim.lr=1e-3",
        "trainer.gradient_checkpointing=true",
        f"run.dir={tmp_path}",
        "run.name=tuned",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "pre-flight: all" in done.stdout + done.stderr, "checkpointing leaves no layer without gradient"
    tensors, card = load_adapter(tmp_path / "tuned" / "adapter.safetensors")
    assert card.recipe == "tune_a_video"
    assert any(".attn_temp." in name for name in tensors)
    for recipe in (TuneAVideo(), FateZero(frames=[])):
        assert edit(wish(video, backbone, method=recipe, adapter=str(tmp_path / "tuned"))).video.shape == (
            FRAMES,
            64,
            64,
            3,
        )
    other = tmp_path / "other"
    save(blank(Blank.TOYBOX, seed=1).freeze(), other, torch.float32)
    with pytest.raises(ValueError, match="was trained on image model"):
        edit(wish(video, str(other), method=TuneAVideo(), adapter=str(tmp_path / "tuned")))


def test_a_module_that_was_not_tuned_on_the_clip_is_refused(video: str) -> None:
    with pytest.raises(
        ValueError, match="adapter=shipped was made by method=animatediff and is not tuned on the clip"
    ):
        edit(wish(video, "toybox", method=TuneAVideo(), adapter="shipped"))


@pytest.mark.parametrize("published", ["pipeline", "unet.bin"])
def test_a_published_checkpoint_is_sent_to_the_import(video: str, tmp_path: Path, published: str) -> None:
    (tmp_path / "pipeline" / "unet").mkdir(parents=True)
    (tmp_path / "unet.bin").touch()
    with pytest.raises(
        ValueError, match=r"import it first with 'vgen export from=.* to=vgen backbone=FOLDER out=NEW'"
    ):
        edit(wish(video, "toybox", method=TuneAVideo(), adapter=str(tmp_path / published)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"target": ""}, "an edit needs both prompts"),
        ({"method": AnimateDiff()}, "method=animatediff does not edit"),
        ({"method": TuneAVideo()}, "edits with a checkpoint tuned on the clip"),
        ({"amplify": ["circle"]}, r"amplify needs words with factors, as amplify=\[jeep:1.5\], got 'circle'"),
        ({"blend": ["jeep"]}, "blend word 'jeep' is neither"),
        (
            {"cross_replace_steps": ["blue"]},
            r"as cross_replace_steps=\[jeep:0.4\] or \[jeep:0.2-0.6\], got 'blue'",
        ),
        ({"cross_replace_steps": ["blue:1.4"]}, "got 'blue:1.4' .*must run forward"),
        ({"cross_replace_steps": ["jeep:0.4"]}, "word 'jeep' does not occur in the target prompt"),
        (
            {"method": TuneAVideo(), "adapter": UNTRAINED, "blend": ["circle"]},
            "leaves the source's attention maps alone and can't heed blend",
        ),
        ({"num_frames": 40}, r"too short \(.*40 frames"),
        ({"size_px": 50}, "size_px must be a multiple of 16"),
        ({"start_seconds": -1.0}, "must not be negative"),
        ({"target": "a blue circle", "method": PromptToPrompt()}, ""),
    ],
)
def test_mistakes_speak(video: str, backbone: str, how: dict, message: str) -> None:
    if not message:
        how, message = how | {"matching": "replace"}, "replace needs as many words"
        from vgen.methods._wishes import Matching

        how["matching"] = Matching.REPLACE
    with pytest.raises(ValueError, match=message):
        edit(wish(video, backbone, **how))


def test_numbers_that_are_not_finite_are_named(video: str, tmp_path: Path) -> None:
    broken = blank(Blank.TOYBOX, seed=0).freeze()
    broken.unet.conv_out.weight.data.fill_(float("nan"))
    save(broken, tmp_path / "broken", torch.float32)
    with pytest.raises(
        ValueError,
        match="inversion met numbers that are not finite at timestep 499; check the clip and the checkpoint",
    ):
        edit(wish(video, str(tmp_path / "broken")))


def test_a_refusal_has_no_empty_bar_before_it(
    capsys: pytest.CaptureFixture[str], video: str, backbone: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="blend word"):
        edit_files(wish(video, backbone, blend=["jeep"], out=str(tmp_path / "edit")), {})
    assert capsys.readouterr().out == ""


def test_words_of_the_target_alone_show_fatezero_no_place(video: str, backbone: str) -> None:
    """It looks for them in the source's attention; without a mask the plan would promise what is not done."""
    with pytest.raises(
        ValueError, match=r"blend=\[blue\] names no word of the source, .* as blend=\[WORD,blue\]"
    ):
        edit(wish(video, backbone, blend=["blue"]))


def test_a_store_that_cannot_fit_is_refused_before_anything_runs(video: str, backbone: str) -> None:
    recipe, long = FateZero(store=StoreSpec(max_queries=2**30)), SamplingOverrides(num_steps=900)
    run = wish(video, backbone, method=recipe, sampling=long, num_frames=8, size_px=2048)
    with pytest.raises(
        ValueError, match=r"are free; set method.store.max_memory_gb=\S+ \(the rest goes to disk\)"
    ):
        edit(run)
    assert (
        edit(wish(video, backbone, method=FateZero(store=StoreSpec(place=Place.DISK)))).report["store_bytes"]
        > 0
    )


def test_a_bounded_store_edits_the_same_and_says_what_goes_to_disk(video: str, backbone: str) -> None:
    whole, bounded = FateZero(), FateZero(store=StoreSpec(max_memory_gb=1e-4))
    session, _ = _session(
        wish(video, backbone, method=bounded), bounded, wish(video, backbone).wish(), lambda *_: None
    )
    assert re.search(r"attention kept: \d+ MiB \(\d+ cpu, \d+ disk\)", plan(session, bounded))
    ours, theirs = (edit(wish(video, backbone, method=recipe)) for recipe in (bounded, whole))
    assert np.array_equal(ours.video, theirs.video)


def test_words_of_the_inversion_that_are_left_out_are_counted(video: str, backbone: str) -> None:
    told = Console(record=True, file=StringIO(), width=200)
    method = TuneAVideo(reconstruct=False, inversion_prompt="red " * 50)
    edit(wish(video, backbone, method=method, adapter=UNTRAINED, num_frames=1), console=told)
    assert (
        "reads 46 tokens, of 'red red red red red red red red red red ...' the last 4 are cut off; say it"
        in told.export_text()
    )


def test_a_method_may_be_seen_without_tuning(video: str, backbone: str) -> None:
    assert edit(wish(video, backbone, method=TuneAVideo(), adapter=UNTRAINED)).reconstruction is not None


@pytest.mark.parametrize("verb", ["edit", "generate"])
def test_a_backbone_is_named_on_the_command_line(verb: str) -> None:
    """``conf/backbone`` is a group of ``vgen train``; elsewhere ``backbone=`` is a folder."""
    program = "from vgen.app.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, verb, "backbone=models/sd15", "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "backbone: models/sd15" in done.stdout


@pytest.mark.slow
def test_the_helps_example_does_what_it_says(tmp_path: Path) -> None:
    """A red circle becomes a blue one and goes on to the right; the oracle reads both clips."""
    vgen = str(Path(sys.executable).with_name("vgen"))
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def typed(example: str) -> str:
        words = [vgen, *shlex.split(example.replace("\\\n", " "))[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    typed(f"{VERBS['generate'].examples[0]} sampling.num_frames=8 out=drawn")
    next((tmp_path / "drawn").glob("*.mp4")).rename(tmp_path / "red.mp4")
    said = typed(VERBS["edit"].examples[0])
    assert "changed nothing" not in said
    assert "kept nothing" not in said
    [edited] = (tmp_path / "outputs").glob("edit-*/edited.mp4")
    for path, colour in ((tmp_path / "red.mp4", Colour.RED), (edited, Colour.BLUE)):
        [thing] = read(frames_of(path)[:, ::4, ::4]).things
        assert (thing.colour, thing.shape, thing.motion) == (colour, Shape.CIRCLE, Motion.RIGHT)
