"""Rerender A Video on a tiny real UNet: which keys read which, which windows act, what each mistake says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor

from vgen.app.control_net import ControlNetRun
from vgen.app.edit import EditRun, edit
from vgen.attention.control import Recorder, Seen
from vgen.attention.keys import FrameKeys
from vgen.attention.sites import AttentionSite, AttentionWhere
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.backbones.sites import Stage
from vgen.data.clip_files import write_mp4
from vgen.data.patch_match import Matching
from vgen.data.propagate import Propagation
from vgen.diffusion.moment import Moment
from vgen.diffusion.step_window import StepWindow
from vgen.methods import assemble
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import Edited, start_noise
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods._wishes import Wish
from vgen.methods.rerender import Rerender

SIDE, FRAMES, STEPS, CPU = 8, 5, 4, torch.device("cpu")
NEVER = StepWindow(end=0.0)
FEW = Propagation(matching=Matching(rounds=1, searches=1), gradients=False)
OWN = Rerender(interval=2, propagation=FEW)
PLAIN = replace(OWN, shapes=NEVER, pixels=NEVER, style=NEVER)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.TOYBOX, seed=0).freeze()


def clip(still: bool = False, frames: int = FRAMES) -> Tensor:
    """1 f 3 H W: smooth colours that move to the right, two pixels a frame."""
    few = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one = torch.nn.functional.interpolate(few, (4 * SIDE, 4 * SIDE), mode="bicubic").clamp(-1, 1)[0]
    return torch.stack([one.roll(0 if still else 2 * i, 2) for i in range(frames)])[None]


@pytest.fixture
def edited(model: ImageModel) -> Iterator:
    video_model = assemble(OWN, model).to(CPU)

    def of(recipe: Rerender, seen: Tensor, watch: Recorder | None = None, **how) -> Edited:
        frames = seen.shape[1]
        usual = {
            "wish": Wish(target="a large red circle"),
            "noise": start_noise(model, frames, (SIDE, SIDE), 0, CPU, recipe.start()),
            "sampling": Sampling(num_steps=STEPS, guidance=3.0),
            "latents": model.encode(seen).float(),
            "pixels": seen,
            "frames": recipe.frame_schedule(Sampling().window),
        }
        return recipe.edit(EditSession(video_model=video_model, **(usual | how)))

    yield of
    video_model.eject()


def test_a_still_clip_is_drawn_still(edited) -> None:
    """Every key reads what is its own, and is carried nowhere: all frames are the first key."""
    done = edited(PLAIN, clip(still=True))
    assert done.pixels.shape == (1, FRAMES, 3, 4 * SIDE, 4 * SIDE)
    assert done.report["key_frames"] == [0, 2, 4]
    first = done.pixels[:, :1].expand_as(done.pixels)
    torch.testing.assert_close(done.pixels, first, atol=2e-2, rtol=2e-2)


def test_keys_read_the_first_and_the_previous_one(edited) -> None:
    """What is in the first frame, or in the key before, is seen; a frame between keys, or a key to come, is
    not."""
    recipe, seen = replace(PLAIN, keys_only=True), clip()
    before = edited(recipe, seen).latents
    assert before.shape[1] == 3
    for frame, changes in ((0, [True, True, True]), (2, [False, True, True]), (4, [False, False, True])):
        other = seen.clone()
        other[:, frame] = -other[:, frame]
        after = edited(recipe, other).latents
        assert [not torch.equal(after[:, i], before[:, i]) for i in range(3)] == changes
    other = seen.clone()
    other[:, 1] = -other[:, 1]
    assert torch.equal(edited(recipe, other).latents, before)


def test_own_keys_are_left_out_on_the_way_up_alone(edited) -> None:
    nowhere = replace(PLAIN, keys_only=True, where=AttentionWhere(stages=[Stage.UP], levels=[9]))
    seen = clip()
    found = edited(nowhere, seen).latents
    other = seen.clone()
    other[:, 0] = -other[:, 0]
    torch.testing.assert_close(edited(nowhere, other).latents[:, 1:], found[:, 1:])
    assert not torch.allclose(edited(replace(nowhere, where=PLAIN.where), seen).latents[:, 1:], found[:, 1:])


@pytest.mark.parametrize("fusion", ["shapes", "pixels", "style"])
def test_every_fusion_changes_the_later_keys_alone(edited, fusion: str) -> None:
    keys = replace(PLAIN, keys_only=True)
    plain, fused = edited(keys, clip()), edited(replace(keys, **{fusion: StepWindow()}), clip())
    assert torch.equal(plain.latents[:, 0], fused.latents[:, 0])
    assert not torch.allclose(plain.latents[:, 1:], fused.latents[:, 1:], atol=1e-3)


def test_all_of_the_first_keys_samples_on_a_still_clip_is_the_first_key(edited) -> None:
    """Shapes in every step, nothing hidden: whatever else is drawn is replaced."""
    recipe = replace(PLAIN, keys_only=True, shapes=StepWindow())
    found = edited(recipe, clip(still=True)).latents
    torch.testing.assert_close(found, found[:, :1].expand_as(found), atol=1e-3, rtol=1e-3)


def test_strength_is_where_a_key_starts(edited) -> None:
    """int(20 * .05) is step 1; all steps are drawn with 1, the last one alone with 1 / steps."""
    asked: list[int] = []

    class Watch(Recorder):
        def wants(self, site: AttentionSite, moment: Moment) -> bool:
            asked.append(moment.step)
            return False

        def record(self, site: AttentionSite, moment: Moment, seen: Seen) -> None: ...

    for strength, first in ((1.0, 0), (0.95, 1), (0.75, 5)):
        asked.clear()
        recipe = replace(PLAIN, keys_only=True, strength=strength, interval=FRAMES)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FrameKeys, "acts", _counted(asked))
            edited(recipe, clip(), sampling=Sampling(num_steps=20, guidance=1.0))
        assert min(asked) == first
        assert max(asked) == 19


def _counted(asked: list[int]):
    acts = FrameKeys.acts

    def of(self: FrameKeys, site: AttentionSite, moment: Moment | None) -> bool:
        if moment is not None:
            asked.append(moment.step)
        return acts(self, site, moment)

    return of


def test_progress_ends_where_it_should(edited) -> None:
    told: list[tuple[str, int, int]] = []
    edited(OWN, clip(), progress=lambda *said: told.append(said))
    keys = [(done, total) for phase, done, total in told if phase == "keys"]
    assert keys[-1] == (5 * STEPS, 5 * STEPS)
    assert [done for done, _ in keys] == sorted(done for done, _ in keys)
    assert told[-1] == ("propagate", 2, 2)


def test_what_attention_keeps_is_counted_beforehand(model: ImageModel) -> None:
    """Three stores of two rows: keys and values of the self-attentions on the way up, in half precision."""
    video_model = assemble(OWN, model).to(CPU)
    noise = start_noise(model, FRAMES, (SIDE, SIDE), 0, CPU)
    session = EditSession(
        video_model=video_model, wish=Wish(), noise=noise, sampling=Sampling(num_steps=STEPS, guidance=3.0)
    )
    sites = [s for s in session.control.sites.values() if OWN._reads(s, 0)]
    numbers = sum(2 * (SIDE >> s.level) ** 2 * s.channels for s in sites)
    assert OWN.store_bytes(session) == 3 * 2 * STEPS * 2 * numbers
    video_model.eject()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"interval": 0}, "interval must be 1 or more, got 0"),
        ({"strength": 0.0}, "strength above 0, got strength=0"),
        ({"strength": 1.05}, r"shares from 0 to 1, strength above 0, got strength=1\.05"),
        ({"inner": -0.5, "fused": 2.0}, r"got fused=2, inner=-0\.5"),
    ],
)
def test_impossible_knobs_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rerender(**knobs)


def test_one_frame_is_refused(edited) -> None:
    with pytest.raises(ValueError, match="got a clip of 1 frame; give num_frames of 2 or more"):
        edited(OWN, clip(frames=1))


# -- from the command line ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: ImageModel) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    save(model, folder / "model", torch.float32)
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(16, 32, 96))
    for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(conv.weight, std=0.3)
    net.save_pretrained(folder / "net")
    seen = ((clip()[0].permute(0, 2, 3, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    shown = seen.repeat(2, 1).repeat(2, 2)
    return {
        "backbone": str(folder / "model"),
        "net": str(folder / "net"),
        "video": str(write_mp4(folder / "clip.mp4", shown, 8.0)),
    }


def test_a_clip_from_the_command_line(files: dict[str, str], tmp_path: Path) -> None:
    command = [
        *[sys.executable, "-m", "vgen", "edit", "method=rerender", "target=a large red circle"],
        *[f"num_frames={FRAMES}", "sampling.num_steps=2", f"out={tmp_path / 'made'}", "size_px=32"],
        *[f"backbone={files['backbone']}", f"control_net.path={files['net']}", f"video={files['video']}"],
        *[f"control_net.video={files['video']}", "method.interval=2"],
        *["method.propagation.matching.rounds=1", "method.propagation.matching.searches=1"],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 frames, 3 of them keys drawn one after another" in done.stdout
    assert "attention kept: " in done.stdout
    card = json.loads((tmp_path / "made" / "card.json").read_text())
    assert card["report"]["key_frames"] == [0, 2, 4]


def asked(files: dict[str, str], **how) -> EditRun:
    usual = {
        "method": OWN,
        "target": "a large red circle",
        "num_frames": FRAMES,
        "size_px": 32,
        "sampling": SamplingOverrides(num_steps=2),
        "video": files["video"],
        "control_net": ControlNetRun(path=files["net"], video=files["video"]),
    }
    return EditRun(backbone=files["backbone"], **(usual | how))


def test_keys_are_shown_first_beside_their_own_source(files: dict[str, str], tmp_path: Path) -> None:
    keys = edit(asked(files, method=replace(OWN, keys_only=True)))
    assert keys.video.shape == keys.source.shape == (3, 32, 32, 3)
    assert (keys.save(tmp_path / "keys") / "side_by_side.mp4").is_file()
    whole = edit(asked(files))
    assert whole.video.shape == whole.source.shape == (FRAMES, 32, 32, 3)
    assert np.abs(whole.video[[0, 2, 4]].astype(int) - keys.video).max() <= 1, "keys stay as they were drawn"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"control_net": ControlNetRun()}, "draws along the pictures of a ControlNet; give"),
        ({"video": ""}, "edits a clip that exists; give video=FILE"),
        ({"target": " "}, "nothing says what is to be seen; give target="),
        ({"blend": ["circle"]}, "can't heed blend"),
        ({"num_frames": 1}, "got a clip of 1 frame"),
    ],
)
def test_mistakes_speak(files: dict[str, str], how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit(asked(files, **how))
