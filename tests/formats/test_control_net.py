"""A ControlNet of vgen's as diffusers' folder and back, and a published one taken in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel

from vgen.app.export import Export, export
from vgen.app.loading import load_backbone, open_checkpoint
from vgen.app.stacks import recipe_of
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.formats import proof
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.methods import assemble
from vgen.methods.control_net import ControlNets, Shown

BLANK = "blank:toybox:0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a training would leave: every tensor of the net moved a little."""
    model, recipe = load_backbone(BLANK), ControlNets(condition=Shown.POSE)
    video_model = assemble(recipe, model)
    draw = torch.Generator().manual_seed(0)
    named = {f"pose.{n}": p for n, p in video_model.modules["pose"].named_parameters()}
    moved = {n: p.detach() + 0.05 * torch.randn(p.shape, generator=draw) for n, p in named.items()}
    save_adapter(
        tmp_path / "run" / "adapter.safetensors", moved, Card.of("control_net", recipe, model, {}, {})
    )
    return tmp_path / "run"


def test_there_and_back(run: Path, tmp_path: Path) -> None:
    """The folder is proved in writing: read back bit for bit, and stock diffusers says the same on it."""
    folder = tmp_path / "theirs"
    export(Export(run=str(run), to="controlnet", out=str(folder)))
    assert ControlNetModel.from_pretrained(folder).config["conditioning_embedding_out_channels"] == [
        16,
        32,
        96,
    ]
    export(Export(source=str(folder), to="vgen", out=str(tmp_path / "again"), backbone=BLANK))
    before, after = (load_adapter(path / "adapter.safetensors") for path in (run, tmp_path / "again"))
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert recipe_of(after[1]) == recipe_of(before[1])


def test_a_net_of_other_widths_is_refused_by_the_key(tmp_path: Path) -> None:
    """And not by tensors of another shape."""
    unet = load_backbone(BLANK).unet
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16)).save_pretrained(tmp_path)
    wish = Export(source=str(tmp_path), to="vgen", out=str(tmp_path / "out"), backbone=BLANK)
    with pytest.raises(ValueError, match=r"out_channels=\[8, 8, 16\], .* have \[16, 32, 96\]; an edit takes"):
        export(wish)


@torch.no_grad()
def test_what_it_says_of_clips_is_what_diffusers_says(run: Path, tmp_path: Path) -> None:
    folder, frames = tmp_path / "theirs", 2
    export(Export(run=str(run), to="controlnet", out=str(folder)))
    video_model = open_checkpoint(str(run), BLANK, "cpu").video_model
    given = proof.inputs(video_model.model.unet, frames)
    pictures = torch.rand(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    said = video_model.modules["pose"](given.x, given.t, Conditioning(given.context), pictures)
    text, t = (value.repeat_interleave(frames, 0) for value in (given.context.tokens, given.t))
    stock = ControlNetModel.from_pretrained(folder).eval()
    down, mid = stock(given.x.flatten(0, 1), t, text, pictures.flatten(0, 1), 1.0, return_dict=False)
    for ours, theirs in zip((*said.down, said.mid), (*down, mid), strict=True):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shown"), [("sd-controlnet-canny", "edges"), ("openpose", "pose"), ("mine", "control")]
)
def test_a_published_one_is_taken_by_its_name(
    name: str, shown: str, tmp_path: Path, tiny: ImageModel
) -> None:
    ControlNetModel.from_unet(tiny.unet).save_pretrained(tmp_path / name)
    out = tmp_path / "ours"
    export(Export(source=str(tmp_path / name), to="vgen", out=str(out), backbone="blank:sd15_narrow:0"))
    tensors, card = load_adapter(out / "adapter.safetensors")
    assert card.knobs["condition"] == shown
    assert all(key.startswith(f"{shown}.control_net.") for key in tensors)


def test_one_of_another_image_model_is_refused(tmp_path: Path, tiny: ImageModel) -> None:
    ControlNetModel.from_unet(tiny.unet).save_pretrained(tmp_path / "net")
    with pytest.raises(ValueError, match="belongs to another image model"):
        export(Export(source=str(tmp_path / "net"), to="vgen", out=str(tmp_path / "x"), backbone=BLANK))


def test_as_many_parameters_as_the_published_one() -> None:
    """lllyasviel's SD-1.5 ControlNets: 361 279 120."""
    from vgen.backbones.control_net import encoder_copy

    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
    assert sum(p.numel() for p in encoder_copy(unet, 8).parameters()) == 361_279_120
