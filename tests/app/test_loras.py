"""Stages of AnimateDiff and files of low-rank layers, as they are named on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from torch import Tensor

from vgen.app import cli
from vgen.app.loading import NONE, UNTRAINED, Checkpoint, load_backbone, open_checkpoint
from vgen.app.spellings import respelt
from vgen.app.stacks import StackEntry
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.formats import state_file
from vgen.formats.adapter import Card, file_sha256, load_adapter, save_adapter
from vgen.formats.state_file import Container
from vgen.layers.lora import LowRankSpec
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods import Recipe, assemble, name_of
from vgen.methods._sampling import Prompt, Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.domain_adapter import DomainAdapter
from vgen.methods.motion_lora import MotionLora

RANK = LowRankSpec(rank=2)
MODULE = AnimateDiff(motion=MotionModuleSpec(heads=4), mid_block=True)
SMALL = Sampling(num_frames=3, num_steps=2, guidance=3.0, width_px=32, height_px=32)
DRAW = ("sampling.num_frames=2", "sampling.num_steps=2", "sampling.width_px=32", "sampling.height_px=32")
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model, the stages on it, and a file of kohya's for its UNet and text encoder."""
    folder = tmp_path_factory.mktemp("home")
    save(blank(Blank.TOYBOX).freeze(), folder / "image", torch.float32)
    model = load_backbone(str(folder / "image"))
    _run(folder / "motion", model, MODULE)
    file = folder / "motion" / "adapter.safetensors"
    base = {"name": "motion", "file": str(file), "sha256": file_sha256(file), "scale": 1.0}
    _run(folder / "pan", model, MotionLora(layer=RANK), [base | {"recipe": "animatediff"}])
    _run(folder / "zoom", model, MotionLora(layer=RANK), seed=2)
    _run(folder / "domain", model, DomainAdapter(layer=RANK))
    state_file.write(folder / "toon.safetensors", _toon(), Container.SAFETENSORS)
    return folder


def _run(folder: Path, model: ImageModel, recipe: Recipe, base: Any = (), seed: int = 0) -> None:
    video_model, draw = assemble(recipe, model), torch.Generator().manual_seed(seed)
    learnt = {
        f"unet.{n}": p.detach() + 0.1 * torch.randn(p.shape, generator=draw)
        for n, p in video_model.unet.named_parameters()
        if n.startswith("inserted.") and "+beneath" not in n
    }
    video_model.eject()
    card = Card.of(name_of(recipe), recipe, model, {}, {"steps": 3}, base)
    save_adapter(folder / "adapter.safetensors", learnt, card)


def _toon(width: int = 48) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(4)
    out = {}
    for head, size in {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": width,
        "lora_unet_up_blocks_2_attentions_1_transformer_blocks_0_attn1_to_out_0": width,
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": 128,
    }.items():
        out[f"{head}.lora_down.weight"] = torch.randn(3, size, generator=draw)
        out[f"{head}.lora_up.weight"] = torch.randn(size, 3, generator=draw)
        out[f"{head}.alpha"] = torch.tensor(1.5)
    return out


@pytest.fixture
def vgen(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")

    def typed(verb: str, *arguments: str) -> tuple[int, str, str]:
        code = cli.run(verb, list(arguments))
        return code, *capfd.readouterr()

    return typed


def opened(home: Path, adapter: str = UNTRAINED, loras: float | None = None, **stack: float) -> Checkpoint:
    slots = [StackEntry(name=name, file=str(home / name), scale=scale) for name, scale in stack.items()]
    toon = (
        [StackEntry(name="toon", file=str(home / "toon.safetensors"), scale=loras)]
        if loras is not None
        else []
    )
    image = str(home / "image")
    return open_checkpoint(adapter, image, "cpu", stack=slots, loras=toon, untrained=AnimateDiff())


def drawn(checkpoint: Checkpoint) -> Tensor:
    return checkpoint.sample([Prompt("a red circle moves up", seed=1)], SMALL)


def test_a_community_lora_changes_the_image_model_by_its_scale(home: Path) -> None:
    bare = opened(home)
    silent, heard = opened(home, loras=0.0), opened(home, loras=0.7)
    words = ["a red circle"]
    assert torch.equal(drawn(silent), drawn(bare))
    assert not torch.allclose(drawn(heard), drawn(bare), atol=1e-2)
    assert not torch.allclose(heard.model.encode_text(words).tokens, bare.model.encode_text(words).tokens)


def test_all_stages_draw_together_and_each_is_heard(home: Path) -> None:
    every = {"domain": 0.5, "motion": 1.0, "zoom": 0.8}
    whole = drawn(opened(home, NONE, loras=0.7, **every))
    for name in every:
        other = drawn(opened(home, NONE, loras=0.7, **every | {name: 0.0}))
        assert not torch.allclose(whole, other, atol=1e-3), name
    assert opened(home, NONE, domain=1.0, motion=1.0).recipe == MODULE


def test_a_motion_lora_brings_the_module_that_it_was_trained_on(home: Path) -> None:
    alone = drawn(opened(home, str(home / "pan")))
    assert torch.equal(drawn(opened(home, NONE, motion=1.0, pan=1.0)), alone)
    assert not torch.allclose(drawn(opened(home, NONE, motion=1.0)), alone, atol=1e-3)


def test_a_clips_card_names_what_lay_beside(vgen: Typed, home: Path) -> None:
    stack = ("stack.motion.file=motion", "stack.zoom.file=zoom", "stack.zoom.scale=0.8")
    loras = ("loras.toon.file=toon.safetensors", "loras.toon.scale=0.7")
    code, _, err = vgen(
        "generate", "prompt=a red circle", "backbone=image", *stack, *loras, *DRAW, "out=drawn"
    )
    assert code == 0, err
    with av.open(str(next((home / "drawn").glob("*.mp4")))) as container:
        beside = json.loads(container.metadata["comment"])["stack"]
    assert [(one["name"], one["scale"]) for one in beside] == [("motion", 1.0), ("zoom", 0.8), ("toon", 0.7)]
    assert beside[2]["sha256"] == file_sha256(home / "toon.safetensors")


def test_what_is_named_in_dots_is_one_list() -> None:
    given = ["loras.toon.file=a b.safetensors", "seed=1", "stack.pan.file=runs/pan", "loras.toon.scale=0.7"]
    said = ['loras=[{name:toon,file:"a b.safetensors",scale:0.7}]', 'stack=[{name:pan,file:"runs/pan"}]']
    assert respelt("generate", given)[0] == ["seed=1", *said]


def refusal(vgen: Typed, *arguments: str, verb: str = "generate") -> str:
    code, _, err = vgen(verb, *arguments)
    assert code == 2
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nothing.safetensors", "loras.toon.file=nothing.safetensors is no file"),
        ("pan/adapter.safetensors", "is an adapter of vgen's; give it as stack.toon.file="),
        ("wide.safetensors", "2 of its 3 low-rank layers have other shapes than the image model's"),
        (
            "lost.safetensors",
            "1 of its 4 low-rank layers match nothing in the image model (first: lora_unet_none)",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(vgen: Typed, home: Path, file: str, said: str) -> None:
    lost = {f"lora_unet_none.lora_{half}.weight": torch.ones(2, 2) for half in ("down", "up")}
    state_file.write(home / "wide.safetensors", _toon(320), Container.SAFETENSORS)
    state_file.write(home / "lost.safetensors", _toon() | lost, Container.SAFETENSORS)
    words = ("prompt=a red circle", "adapter=untrained", "backbone=image")
    assert said in refusal(vgen, *words, f"loras.toon.file={file}")


def test_a_motion_lora_of_another_version_is_refused_with_counts(vgen: Typed, home: Path) -> None:
    _run(home / "smaller", load_backbone(str(home / "image")), AnimateDiff())
    stack = ("stack.motion.file=smaller", "stack.zoom.file=zoom")
    err = refusal(vgen, "prompt=a red circle", "backbone=image", *stack)
    assert "stack.zoom.file=zoom does not fit the image model: 16 unknown tensors" in err
    assert "mid_block" in err


def test_a_motion_lora_brings_its_module_and_another_one_is_refused(vgen: Typed, home: Path) -> None:
    _run(home / "other", load_backbone(str(home / "image")), AnimateDiff())
    stack = ("stack.motion.file=other", "stack.pan.file=pan")
    err = refusal(vgen, "prompt=a red circle", "backbone=image", *stack)
    assert "two adapters want the slot 'motion': base " in err
    assert "stack.motion.file=other; give them slots" in err
    assert "where one is the base that another adapter was trained upon, leave the other out" in err


def test_a_motion_lora_without_its_module_says_what_to_stack(vgen: Typed) -> None:
    err = refusal(vgen, "prompt=a red circle", "adapter=none", "backbone=image", "stack.zoom.file=zoom")
    assert "stack the adapter that has them beneath it, as stack.motion.file=FILE" in err


@pytest.mark.parametrize("stage", ["pan", "domain"])
@pytest.mark.parametrize(("to", "out"), [("animatediff", "x.ckpt"), ("diffusers", "folder")])
def test_stages_go_out_and_come_back(vgen: Typed, home: Path, stage: str, to: str, out: str) -> None:
    theirs, back = f"{stage}_{to}_{out}", f"{stage}_{to}_back"
    code, text, err = vgen("export", f"run={stage}", f"to={to}", f"out={theirs}")
    assert code == 0, err
    assert "layers change their weights alike" in text
    code, text, err = vgen("export", f"from={theirs}", "to=vgen", "backbone=image", f"out={back}")
    assert code == 0, err
    (before, first), (after, card) = (load_adapter(home / n / "adapter.safetensors") for n in (stage, back))
    assert card.recipe == first.recipe
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
