"""``vgen loras``: what is merged, added up or taken out draws as what it was made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vgen.app import cli
from vgen.app.loading import NONE, UNTRAINED, load_backbone, open_checkpoint
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
from vgen.methods._low_rank import Target
from vgen.methods._sampling import Prompt, Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.lora import Lora
from vgen.methods.motion_lora import MotionLora

MODULE = AnimateDiff(motion=MotionModuleSpec(heads=4), mid_block=True)
SMALL = Sampling(num_frames=3, num_steps=2, guidance=3.0, width_px=32, height_px=32)
Q, OUT = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_out.0",
)
CONV = "down_blocks.0.resnets.0.conv1"
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model, a motion module and two MotionLoRAs on it; a file of kohya's, a folder of diffusers'
    and an adapter of vgen's for the image model."""
    folder = tmp_path_factory.mktemp("home")
    save(blank(Blank.TOYBOX).freeze(), folder / "image", torch.float32)
    model = load_backbone(str(folder / "image"))
    _run(folder / "motion", model, MODULE)
    _run(folder / "pan", model, MotionLora(layer=LowRankSpec(rank=2, alpha=1.0)), seed=1)
    _run(folder / "zoom", model, MotionLora(layer=LowRankSpec(rank=3)), seed=2)
    _run(folder / "ours", model, Lora(targets=[Target(paths=["*.attn2.to_k"], layer=LowRankSpec(rank=2))]))
    state_file.write(folder / "toon.safetensors", _kohya(model), Container.SAFETENSORS)
    (folder / "ink").mkdir()
    state_file.write(
        folder / "ink" / "pytorch_lora_weights.safetensors", _diffusers(model), Container.SAFETENSORS
    )
    return folder


def _run(folder: Path, model: ImageModel, recipe: Recipe, seed: int = 0) -> None:
    video_model, draw = assemble(recipe, model), torch.Generator().manual_seed(seed)
    learnt = {
        f"unet.{n}": p.detach() + 0.1 * torch.randn(p.shape, generator=draw)
        for n, p in video_model.unet.named_parameters()
        if n.startswith("inserted.") and "+beneath" not in n
    }
    video_model.eject()
    save_adapter(folder / "adapter.safetensors", learnt, Card.of(name_of(recipe), recipe, model, {}, {}))


def _halves(model: ImageModel, path: str, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    weight = model.unet.get_submodule(path).weight
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=draw) / weight[0].numel() ** 0.5
    return down, 0.2 * torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=draw)


def _kohya(model: ImageModel) -> dict[str, Tensor]:
    out = {}
    for i, path in enumerate((Q, OUT, CONV)):
        down, up = _halves(model, path, 3, i)
        head = f"lora_unet_{path.replace('.', '_')}"
        out[f"{head}.lora_down.weight"], out[f"{head}.lora_up.weight"] = down, up
        out[f"{head}.alpha"] = torch.tensor(1.5)
    head, draw = "lora_te_text_model_encoder_layers_0_self_attn_q_proj", torch.Generator().manual_seed(9)
    out[f"{head}.lora_down.weight"] = torch.randn(3, 128, generator=draw) / 11
    out[f"{head}.lora_up.weight"] = torch.randn(128, 3, generator=draw) / 2
    return out


def _diffusers(model: ImageModel) -> dict[str, Tensor]:
    down, up = _halves(model, Q, 2, 7)
    return {f"unet.{Q}.lora_A.weight": down, f"unet.{Q}.lora_B.weight": up}


@pytest.fixture
def vgen(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")

    def typed(*arguments: str) -> tuple[int, str, str]:
        code = cli.run("loras", list(arguments))
        return code, *capfd.readouterr()

    return typed


def made(vgen: Typed, *arguments: str) -> str:
    code, text, err = vgen(*arguments)
    assert code == 0, err
    return text


def refused(vgen: Typed, *arguments: str) -> str:
    code, _, err = vgen(*arguments)
    assert code == 2
    assert "Traceback" not in err
    return err


def drawn(image: Path, adapter: str = NONE, loras: tuple = (), **stack: tuple[Path, float]) -> Tensor:
    """Latents of a clip, so that no decoder hides a difference."""
    entries = [StackEntry(name=name, file=str(file), scale=scale) for name, (file, scale) in stack.items()]
    foreign = [StackEntry(name=f"l{i}", file=str(file), scale=scale) for i, (file, scale) in enumerate(loras)]
    checkpoint = open_checkpoint(
        adapter, str(image), "cpu", stack=entries, loras=foreign, untrained=AnimateDiff()
    )
    return checkpoint.latents([Prompt("a red circle moves up", seed=1)], SMALL)


def near(a: Tensor, b: Tensor) -> None:
    assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def test_a_merged_image_model_draws_as_the_loras_beside_it(vgen: Typed, home: Path) -> None:
    text = made(
        vgen,
        *("merge", "backbone=image", "out=merged"),
        *("loras.toon.file=toon.safetensors", "loras.toon.scale=0.7", "loras.ink.file=ink"),
        *("loras.ours.file=ours", "loras.ours.scale=-0.5"),
    )
    assert "4 layers of rank 3, times 0.7" in text
    toon = (home / "toon.safetensors", 0.7), (home / "ink", 1.0)
    beside = drawn(home / "image", UNTRAINED, toon, ours=(home / "ours", -0.5))
    near(drawn(home / "merged", UNTRAINED), beside)
    assert not torch.allclose(beside, drawn(home / "image", UNTRAINED), atol=1e-2)
    card = json.loads((home / "merged" / "vgen.json").read_text())
    assert [(one["scale"], one["sha256"]) for one in card["merged"]] == [
        (0.7, file_sha256(home / "toon.safetensors")),
        (1.0, file_sha256(home / "ink" / "pytorch_lora_weights.safetensors")),
        (-0.5, file_sha256(home / "ours" / "adapter.safetensors")),
    ]
    before, after = (
        load_backbone(str(home / name)).encode_text(["a"]).tokens for name in ("image", "merged")
    )
    assert not torch.equal(before, after), "the text encoder's layer is merged, too"


def test_a_merged_motion_module_draws_as_the_loras_beside_it(vgen: Typed, home: Path) -> None:
    loras = ("loras.pan.file=pan", "loras.pan.scale=0.8", "loras.zoom.file=zoom", "loras.zoom.scale=0.5")
    text = made(vgen, "merge", "motion=motion", "out=moving", *loras)
    assert "animatediff" in text
    beside = drawn(
        home / "image", motion=(home / "motion", 1.0), pan=(home / "pan", 0.8), zoom=(home / "zoom", 0.5)
    )
    near(drawn(home / "image", motion=(home / "moving", 1.0)), beside)
    assert not torch.allclose(beside, drawn(home / "image", motion=(home / "motion", 1.0)), atol=1e-3)
    card = load_adapter(home / "moving" / "adapter.safetensors")[1]
    assert [one["scale"] for one in card.summary["merged"]] == [0.8, 0.5]
    assert card.init["sha256"] == file_sha256(home / "motion" / "adapter.safetensors")


def test_the_sum_of_two_is_both_of_them(vgen: Typed, home: Path) -> None:
    loras = ("loras.toon.file=toon.safetensors", "loras.toon.scale=0.7", "loras.ink.file=ink")
    assert "rank 3 to 5" in made(vgen, "sum", "backbone=image", "out=summed", *loras)
    both = (home / "toon.safetensors", 0.7), (home / "ink", 1.0)
    beside = drawn(home / "image", UNTRAINED, both)
    near(drawn(home / "image", UNTRAINED, summed=(home / "summed", 1.0)), beside)
    half = drawn(home / "image", UNTRAINED, summed=(home / "summed", 0.5))
    assert not torch.allclose(half, beside, atol=1e-3), "it has a scale of its own"


def test_the_sum_of_motions_is_one_motion(vgen: Typed, home: Path) -> None:
    loras = ("loras.pan.file=pan", "loras.zoom.file=zoom", "loras.zoom.scale=0.5")
    assert "motion_lora" in made(vgen, "sum", "out=both", *loras)
    _, card = load_adapter(home / "both" / "adapter.safetensors")
    assert (card.recipe, card.knobs["layer"]) == ("motion_lora", {"rank": 5, "alpha": 5.0})
    stack = {"motion": (home / "motion", 1.0)}
    beside = drawn(home / "image", **stack, pan=(home / "pan", 1.0), zoom=(home / "zoom", 0.5))
    near(drawn(home / "image", **stack, both=(home / "both", 1.0)), beside)
    code = cli.run("export", ["run=both", "to=animatediff", "out=both.safetensors"])
    assert code == 0, "and goes to other programs as one"


def test_a_reduced_sum_says_what_is_lost_and_nothing_where_nothing_is(vgen: Typed, home: Path) -> None:
    loras = ("loras.pan.file=pan", "loras.again.file=pan", "loras.again.scale=-0.25")
    exact = made(vgen, "sum", "rank=2", "out=same", *loras)
    assert "0.00% of the sum's norm is lost" in exact, "twice one file has the rank of one"
    alone = drawn(home / "image", motion=(home / "motion", 1.0), pan=(home / "pan", 0.75))
    near(drawn(home / "image", motion=(home / "motion", 1.0), pan=(home / "same", 1.0)), alone)
    lossy = made(vgen, "sum", "rank=1", "out=lossy", "loras.pan.file=pan", "loras.zoom.file=zoom")
    share = float(lossy.partition("to rank 1: ")[2].partition("%")[0])
    assert 5 < share < 95


def test_what_is_extracted_at_full_rank_is_the_tuned_model(vgen: Typed, home: Path) -> None:
    loras = ("loras.toon.file=toon.safetensors", "loras.ink.file=ink")
    made(vgen, "merge", "backbone=image", "out=tuned", *loras)
    text = made(vgen, "extract", "backbone=image", "tuned=tuned", "out=whole")
    assert "100.00% of the change's energy" in text
    tuned = drawn(home / "tuned", UNTRAINED)
    near(drawn(home / "image", UNTRAINED, whole=(home / "whole", 1.0)), tuned)
    five = made(vgen, "extract", "backbone=image", "tuned=tuned", "rank=5", "out=five")
    assert "100.00% of the change's energy" in five, "no layer of the two has a higher rank"
    near(drawn(home / "image", UNTRAINED, five=(home / "five", 1.0)), tuned)
    one = made(vgen, "extract", "backbone=image", "tuned=tuned", "rank=1", "out=one")
    found = re.search(r"([\d.]+)% of the change's energy", one)
    assert found is not None
    assert 20 < float(found[1]) < 100
    assert load_adapter(home / "five" / "adapter.safetensors")[1].recipe == "lora"


def test_what_is_extracted_from_motion_modules_is_the_tuned_one(vgen: Typed, home: Path) -> None:
    made(vgen, "merge", "motion=motion", "out=panned", "loras.pan.file=pan")
    assert "2" in made(vgen, "extract", "motion=motion", "tuned=panned", "rank=2", "out=taken")
    assert load_adapter(home / "taken" / "adapter.safetensors")[1].recipe == "motion_lora"
    stack = {"motion": (home / "motion", 1.0)}
    near(
        drawn(home / "image", **stack, pan=(home / "taken", 1.0)),
        drawn(home / "image", motion=(home / "panned", 1.0)),
    )


def test_what_no_low_rank_layer_holds_is_told(vgen: Typed, home: Path) -> None:
    tensors, card = load_adapter(home / "motion" / "adapter.safetensors")
    changed = {name: value + 0.01 for name, value in tensors.items()}
    save_adapter(home / "other" / "adapter.safetensors", changed, card)
    text = made(vgen, "extract", "motion=motion", "tuned=other", "rank=4", "out=some")
    assert "tensors differ that are no projection or convolution" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs to be told what to do: merge or sum or extract"),
        (("merge", "loras.a.file=ink"), "needs the folder to write: out=FOLDER"),
        (("merge", "loras.a.file=ink", "out=x"), "needs the model that the layers are for: backbone=FOLDER"),
        (("merge", "loras.a.file=ink", "backbone=image", "out=image"), "exists and is never overwritten"),
        (("merge", "loras.a.file=none", "backbone=image", "out=x"), "loras.a.file=none is no file"),
        (
            ("merge", "loras.a.file=pan", "backbone=image", "out=x"),
            "stand in a motion module; give the module",
        ),
        (("merge", "loras.a.file=ink", "motion=motion", "out=x"), "match nothing in the motion module"),
        (
            ("merge", "loras.a.file=motion", "backbone=image", "out=x"),
            "belong to no low-rank layer; give a file",
        ),
        (("merge", "loras.a.file=ink", "backbone=image", "rank=3", "out=x"), "rank is for sum and extract"),
        (("sum", "loras.a.file=ink", "out=x"), "do not say what image model they are for"),
        (("sum", "loras.a.file=ink", "motion=motion", "out=x"), "sum makes a file of layers alone"),
        (("extract", "backbone=image", "tuned=image", "out=x"), "so there is nothing to extract"),
        (
            ("extract", "backbone=image", "tuned=blank:sd15_narrow:0", "out=x"),
            "differ in the names or shapes",
        ),
        (("extract", "backbone=image", "out=x"), "extract needs tuned= and no loras"),
        (("extract", "motion=motion", "tuned=pan", "out=x"), "the two motion modules differ in the names"),
    ],
)
def test_bad_input_speaks(vgen: Typed, home: Path, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(home.iterdir())
    assert said in refused(vgen, *arguments)
    assert sorted(home.iterdir()) == before, "nothing is left behind"


def test_a_failure_leaves_nothing_half_written(
    vgen: Typed, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise ValueError("no space left; make some")

    monkeypatch.setattr("vgen.app.loras.save_adapter", full)
    before = sorted(home.iterdir())
    with pytest.raises(ValueError, match="no space left"):
        vgen("sum", "loras.pan.file=pan", "out=half")
    assert sorted(home.iterdir()) == before
