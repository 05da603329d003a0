"""``vgen edit`` without a clip: a clip drawn along the pictures of a ControlNet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel

from vgen.app.control_net import ControlNetRun
from vgen.app.edit import EditRun, edit
from vgen.app.given_fields import GivenField
from vgen.app.loading import load_backbone
from vgen.app.stacks import StackEntry
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.data.clip_files import write_mp4
from vgen.diffusion.frames import Sliding
from vgen.formats.adapter import Card, save_adapter
from vgen.methods import assemble
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.control_net import ControlNets
from vgen.methods.controlvideo_free import ControlVideoFree

FRAMES = 7
FEW = SamplingOverrides(num_steps=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An image model, a ControlNet of it that is heard, and a video of pictures."""
    folder = tmp_path_factory.mktemp("files")
    model = blank(Blank.TOYBOX, seed=0).freeze()
    save(model, folder / "model", torch.float32)
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(16, 32, 96))
    for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(conv.weight, std=0.3)
    net.save_pretrained(folder / "net")
    shown = np.random.default_rng(0).integers(0, 255, (FRAMES, 64, 64, 3), dtype=np.uint8)
    return {
        "backbone": str(folder / "model"),
        "net": str(folder / "net"),
        "video": str(write_mp4(folder / "edges.mp4", shown, 8.0)),
    }


def asked(files: dict[str, str], **how) -> EditRun:
    net = ControlNetRun(path=files["net"], video=files["video"])
    usual = {"target": "a large red circle", "num_frames": FRAMES, "sampling": FEW, "control_net": net}
    return EditRun(method=ControlVideoFree(), backbone=files["backbone"], **(usual | how))


@pytest.mark.slow
def test_a_long_clip_from_the_command_line(files: dict[str, str], tmp_path: Path) -> None:
    command = [
        *[sys.executable, "-m", "vgen", "edit", "method=controlvideo_free", "target=a large red circle"],
        *[f"num_frames={FRAMES}", "window.num_frames=4", "sampling.num_steps=2", f"out={tmp_path / 'made'}"],
        *[f"backbone={files['backbone']}", f"control_net.path={files['net']}"],
        f"control_net.video={files['video']}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 frames as 4 keys seen together and, between two keys each, 3 clips of up to 1" in done.stdout
    assert {p.name for p in (tmp_path / "made").iterdir()} >= {"edited.mp4", "side_by_side.mp4", "card.json"}
    card = json.loads((tmp_path / "made" / "card.json").read_text())
    assert card["report"]["smoothed_steps"] == [1]
    assert card["method"]["smoother"]["count"] == 2


def test_what_is_shown_beside_are_the_pictures(files: dict[str, str]) -> None:
    whole = edit(asked(files))
    assert whole.video.shape == whole.source.shape == (FRAMES, 64, 64, 3)
    assert whole.source.std() > 20, "the pictures are noise"
    assert "reconstruction_psnr" not in whole.report
    parts = edit(asked(files, window=Sliding(num_frames=4)))
    assert not np.array_equal(parts.video, whole.video)


def test_a_clip_beside_it_is_shown_and_changes_nothing(files: dict[str, str]) -> None:
    with_clip = edit(asked(files, video=files["video"]))
    assert np.array_equal(with_clip.video, edit(asked(files)).video)
    assert "ceiling_psnr" in with_clip.report


def test_a_net_that_vgen_trained_is_stacked(files: dict[str, str], tmp_path: Path) -> None:
    """Its edges are found in the clip, or given without one."""
    model, recipe = load_backbone(files["backbone"]), ControlNets()
    module = assemble(recipe, model).modules["edges"]
    torch.manual_seed(0)
    for p in module.silent_outputs():
        torch.nn.init.normal_(p.data, std=0.3)
    tensors = {f"edges.{name}": p.detach() for name, p in module.named_parameters()}
    save_adapter(tmp_path / "adapter.safetensors", tensors, Card.of("control_net", recipe, model, {}, {}))
    stacked = {"stack": [StackEntry(name="edges", file=str(tmp_path))], "control_net": ControlNetRun()}
    found = edit(asked(files, **stacked, video=files["video"]))
    unheard = [StackEntry(name="edges", file=str(tmp_path), scale=0.0)]
    silent = edit(asked(files, **(stacked | {"stack": unheard}), video=files["video"]))
    assert not np.array_equal(found.video, silent.video)
    given = edit(asked(files, **stacked, fields=[GivenField(name="edges", file=files["video"])]))
    assert given.video.shape == given.source.shape == (FRAMES, 64, 64, 3)
    assert (given.source[..., 0] == given.source[..., 1]).all(), "the pictures it was shown, in grey"
    with pytest.raises(ValueError, match="there is no clip to find it in; give edges=FILE"):
        edit(asked(files, **stacked))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"control_net": ControlNetRun()},
            "draws along the pictures of a ControlNet; give",
        ),
        ({"target": " "}, "nothing says what is to be seen; give target="),
        ({"blend": ["circle"]}, "can't heed blend"),
        ({"num_frames": FRAMES + 30}, "too short"),
    ],
)
def test_mistakes_speak(files: dict[str, str], how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit(asked(files, **how))
