"""``vgen export`` as it is typed: to other programs, back again, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from vgen.app import cli
from vgen.app import export as exporting
from vgen.app.export import Export, Width, cast, export
from vgen.app.loading import load_backbone
from vgen.app.pieces import of_card
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.diffusion.schedule import Betas, Schedule
from vgen.formats import diffusers_motion, state_file
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.formats.motion_files import CARD_FILE
from vgen.layers.motion_module import MotionModuleSpec
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.masactrl import MasaCtrl
from vgen.methods.tune_a_video import TuneAVideo


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An image model and a run on it, with a motion module that moves things and knobs that no format
    stores."""
    folder = tmp_path_factory.mktemp("home")
    model = blank(Blank.TOYBOX).freeze()
    save(model, folder / "image", torch.float32)
    model.source = str(folder / "image")
    recipe = AnimateDiff(
        motion=MotionModuleSpec(heads=4, num_positions=24), image_norm_scope=NormScope.FRAME, text_drop=0.2
    )
    _run(folder / "run", model, recipe)
    return folder


def _run(folder: Path, model: ImageModel, recipe: AnimateDiff) -> None:
    video, draw = assemble(recipe, model).unet, torch.Generator().manual_seed(0)
    learnt = {
        f"unet.{n}": p + 0.05 * torch.randn(p.shape, generator=draw)
        for n, p in video.named_parameters()
        if n.startswith("inserted.")
    }
    video.eject()
    save_adapter(
        folder / "adapter.safetensors", learnt, Card.of("animatediff", recipe, model, {}, {"steps": 3})
    )


@pytest.fixture
def vgen(home, monkeypatch, capfd):
    monkeypatch.chdir(home)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def typed(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vgen", "export", *arguments])
        code = cli.run("export", list(arguments))
        return code, *capfd.readouterr()

    return typed


def adapter(path: Path) -> tuple[dict[str, torch.Tensor], Card]:
    return load_adapter(path / "adapter.safetensors")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize(("to", "out"), [("animatediff", "mm.safetensors"), ("diffusers", "folder")])
def test_there_and_back_keeps_tensors_and_knobs(vgen, home, to, out):
    code, text, err = vgen("run=run", f"to={to}", f"out={out}")
    assert code == 0, err
    for words in (
        "exported",
        "read back",
        "equal to the bit",
        "forward in diffusers",
        "limit 1e-04",
        "the recipe has image frame, motion frame; diffusers always has image frame, motion clip",
    ):
        assert words in text
    assert ("seen by ComfyUI-AnimateDiff-Evolved" in text) is (to == "animatediff")
    assert ("attention heads" in text and "motion_num_attention_heads=4" in text) is (to == "animatediff")
    code, text, err = vgen(f"from={out}", "to=vgen", "backbone=image", f"out=back_{to}")
    assert code == 0, err
    assert "its knobs come from the vgen card" in text
    (tensors, card), (before, first) = adapter(home / f"back_{to}"), adapter(home / "run")
    assert same(tensors, before)
    assert (card.knobs, card.backbone) == (first.knobs, first.backbone)
    assert not list(home.glob(".export-*"))


def test_half_precision_checkpoint_and_back_without_a_card(vgen, home):
    code, text, _ = vgen("run=run", "out=mm.ckpt", "dtype=fp16")
    assert code == 0
    assert "animatediff, fp16" in text
    code, text, err = vgen("from=mm.ckpt", "to=vgen", "backbone=image", "out=half")
    assert code == 0, err
    assert "AnimateDiff v1: 3 levels of 48/96/128 channels, no middle block, 24 position rows" in text
    tensors, card = adapter(home / "half")
    assert same(tensors, {n: v.half().float() for n, v in adapter(home / "run")[0].items()})
    assert (card.knobs["motion"]["heads"], card.knobs["image_norm_scope"]) == (8, "clip")
    assert vgen("from=mm.ckpt", "to=diffusers", "backbone=image", "out=half_diffusers")[0] == 0
    (home / "half_diffusers" / CARD_FILE).unlink()
    code, text, err = vgen("from=half_diffusers", "to=vgen", "backbone=image", "out=nobodys")
    assert code == 0, err
    assert "taken for" not in text, "a folder of that name of another method holds low-rank layers"
    code, _, err = vgen("from=mm.ckpt", "to=vgen", "out=no")
    assert code == 2
    assert "from=mm.ckpt needs the image model that it was trained on: backbone=FOLDER" in err
    code, _, err = vgen("from=mm.ckpt", "to=vgen", "backbone=image", "out=no", "num_positions=16")
    assert code == 2
    assert "says itself that it has 24 position rows, got num_positions=16" in err


def test_a_copy_in_our_own_format(vgen, home):
    assert vgen("run=run", "to=vgen", "out=copy", "dtype=fp16")[0] == 0
    assert same(adapter(home / "copy")[0], {n: v.half() for n, v in adapter(home / "run")[0].items()})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=a"], "needs one of run=FOLDER (ours, to write) and from=FILE"),
        (["run=run", "from=x", "out=a"], "needs one of run=FOLDER"),
        (["run=run"], "needs the file or folder to write: out=PATH"),
        (["from=x.ckpt", "out=a"], "needs the image model that it was trained on: backbone="),
        (["run=run", "out=image"], "image.safetensors"),
        (["run=run", "to=diffusers", "out=image"], "image exists and is never overwritten"),
        (
            ["run=run", "out=a.ckpt", "container=safetensors"],
            "ends in .ckpt, container=safetensors says otherwise",
        ),
        (
            ["run=run", "to=diffusers", "out=a", "container=ckpt"],
            "to=diffusers is written as safetensors only",
        ),
        (["run=run", "to=difusers", "out=a"], "to: "),
        (
            ["run=nowhere", "out=a"],
            "run=nowhere is no file; give a run's folder, an adapter.safetensors, shipped, shipped_edges or",
        ),
        (["from=nowhere.ckpt", "backbone=image", "out=a"], "nowhere.ckpt is no file"),
        (["from=run/adapter.safetensors", "backbone=image", "out=a"], "is a vgen adapter already"),
        (["from=image", "backbone=image", "out=a"], "is no diffusers MotionAdapter"),
        (
            ["run=run", "out=a", "num_positions=16"],
            "is for imported files that carry no position table, got 16",
        ),
        (
            ["run=run", "out=mine.pt"],
            "out=mine.pt ends in .pt, to=animatediff is written as .safetensors or .ckpt; choose one of "
            "these",
        ),
        (
            ["run=run", "to=vgen", "out=a.bin"],
            "out=a.bin ends in .bin, to=vgen is written as .safetensors or a folder",
        ),
        (["run=run", "to=image_model", "out=a"], "give it with from=FILE"),
        (
            ["run=run", "out=a", "num_positions=-1"],
            "is for imported files that carry no position table, got -1",
        ),
    ],
)
def test_mistakes_speak(vgen, home, arguments, message):
    if "out=image" in arguments and len(arguments) == 2:
        (home / "image.safetensors").touch()
    before = sorted(p.name for p in home.iterdir())
    code, _, err = vgen(*arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("vgen export: ")
    assert message in err
    assert sorted(p.name for p in home.iterdir()) == before


def flipped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One tensor of another sign, as no file should have it."""
    name = next(n for n in tensors if n.endswith("to_q.weight"))
    return tensors | {name: -tensors[name]}


@pytest.mark.parametrize("container", ["safetensors", "ckpt"])
def test_a_file_that_was_written_wrongly_is_refused_and_nothing_stays(vgen, home, monkeypatch, container):
    write = state_file.write
    monkeypatch.setattr(
        state_file, "write", lambda path, tensors, *more: write(path, flipped(tensors), *more)
    )
    before = sorted(p.name for p in home.iterdir())
    code, _, err = vgen("run=run", f"out=spoilt.{container}")
    assert code == 2
    assert re.search(
        r"does not read back as it was written: 1 of \d+ tensors differ \(first: .*to_q.weight\); nothing "
        r"was kept",
        err,
    )
    assert sorted(p.name for p in home.iterdir()) == before


def test_a_folder_that_was_written_wrongly_is_refused_and_nothing_stays(vgen, home, monkeypatch):
    write = diffusers_motion.write
    monkeypatch.setattr(
        diffusers_motion, "write", lambda path, tensors, *more: write(path, flipped(tensors), *more)
    )
    before = sorted(p.name for p in home.iterdir())
    code, _, err = vgen("run=run", "to=diffusers", "out=spoilt")
    assert code == 2
    assert "1 of" in err
    assert "does not read back as it was written" in err
    assert sorted(p.name for p in home.iterdir()) == before


def test_a_copy_that_was_written_wrongly_is_refused_and_nothing_stays(vgen, home, monkeypatch):
    monkeypatch.setattr(
        exporting, "save_adapter", lambda path, tensors, *more: save_adapter(path, flipped(tensors), *more)
    )
    before = sorted(p.name for p in home.iterdir())
    for out in ("spoilt.safetensors", "spoilt"):
        code, _, err = vgen("run=run", "to=vgen", f"out={out}")
        assert code == 2
        assert "does not read back as it was written" in err
        assert sorted(p.name for p in home.iterdir()) == before


@pytest.mark.parametrize("to", ["animatediff", "diffusers"])
def test_a_module_that_diffusers_computes_otherwise_is_refused_and_nothing_stays(vgen, home, monkeypatch, to):
    """The file is right to the bit, the layer is not: other heads here than the file's reader was told."""
    mistaken = diffusers_motion.config
    monkeypatch.setattr(
        diffusers_motion, "config", lambda *given: mistaken(*given) | {"motion_num_attention_heads": 2}
    )
    before = sorted(p.name for p in home.iterdir())
    code, _, err = vgen("run=run", f"to={to}", "out=spoilt.safetensors")
    assert code == 2
    assert re.search(
        r"vgen and diffusers differ by \S+ on the same weights and inputs, the limit is 1e-04; nothing was "
        r"kept",
        err,
    )
    assert sorted(p.name for p in home.iterdir()) == before


def test_another_image_model_is_refused(vgen, home):
    save(blank(Blank.TOYBOX, seed=1), home / "other", torch.float32)
    code, _, err = vgen("run=run", "backbone=other", "out=b")
    assert code == 2
    assert "was trained on image model" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"knobs": {"image_norm_scope": "x"}}', "in from=file cannot be read"),
        ('{"knobs": {"mid_block": true}}', "contradicts its tensors"),
    ],
)
def test_a_card_that_lies_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        of_card(text, AnimateDiff(), AnimateDiff.formats[0], "file")


NORM = "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({0: torch.zeros(1)}, "from=odd.ckpt: the file holds entries that are no tensors: 0"),
        ({"state_dict": {3: torch.zeros(1)}}, "from=odd.ckpt: the file holds entries that are no tensors: 3"),
        ({NORM: torch.tensor(1.0)}, f"from=odd.ckpt: the file's {NORM} must be a row of numbers"),
        (
            {"a.transformer_blocks.0.attn_temp.x": 3},
            "from=odd.ckpt: the checkpoint holds 1 tensors that this image model has no place for",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_its_name(vgen, home, entries, message):
    torch.save(entries, home / "odd.ckpt")
    code, _, err = vgen("from=odd.ckpt", "to=vgen", "backbone=image", "out=no")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"vgen export: {message}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{x", "odd/config.json is no JSON ("),
        ("[1]", "odd/config.json must hold names and values, got [1]"),
        (
            '{"_class_name": "MotionAdapter"}',
            "odd/config.json lacks block_out_channels, or they are not what diffusers writes there",
        ),
    ],
)
def test_a_damaged_folder_is_refused_by_its_name(vgen, home, config, message):
    (home / "odd").mkdir(exist_ok=True)
    (home / "odd" / diffusers_motion.WEIGHTS).touch()
    (home / "odd" / "config.json").write_text(config)
    code, _, err = vgen("from=odd", "to=vgen", "backbone=image", "out=no")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"vgen export: {message}")


def test_a_module_that_diffusers_cannot_build_says_that_and_what_readers_must_be_told(vgen, home):
    model = load_backbone(str(home / "image"))
    schedule = Schedule(betas=Betas.SCALED_LINEAR)
    _run(
        home / "single",
        model,
        AnimateDiff(motion=MotionModuleSpec(num_attentions=1, num_positions=16), schedule=schedule),
    )
    code, text, err = vgen("run=single", "to=animatediff", "out=single.safetensors")
    assert code == 0, err
    text = " ".join(re.sub(r"[│┃]", " ", text).split())
    for words in (
        "could not be proved: its motion block has 2 attentions, this one 1; only the tensors were compared",
        "attention_block_types=[Temporal_Self] in",
        "16, where AnimateDiff v1 has 24",
        "scaled_linear 0.00085-0.012 in 1000 steps, where AnimateDiff v1 has linear 0.00085-0.012",
    ):
        assert words in text
    assert "attention heads" not in text


def test_what_is_not_read_of_a_file_and_another_image_model_are_said(vgen, home):
    code, _, err = vgen("run=run", "out=noted.ckpt")
    assert code == 0, err
    torch.save(
        {"epoch": 3, "optimizer": {"lr": 1.0}, "state_dict": torch.load(home / "noted.ckpt")},
        home / "trainer.ckpt",
    )
    code, text, err = vgen("from=trainer.ckpt", "to=vgen", "backbone=image", "out=from_trainer")
    assert code == 0, err
    assert "left unread what stands beside state_dict: epoch, optimizer" in text
    save(blank(Blank.TOYBOX, seed=2), home / "foreign", torch.float32)
    assert vgen("run=run", "out=carded.safetensors")[0] == 0
    code, text, err = vgen("from=carded.safetensors", "to=vgen", "backbone=foreign", "out=on_foreign")
    assert code == 0, err
    made_on, here = (adapter(home / run)[1].backbone for run in ("run", "on_foreign"))
    text = " ".join(re.sub(r"[│┃]", " ", text).split())
    assert re.search(
        rf"trained on another image model \(.*image, fingerprint {made_on}\) than .*foreign \({here}\)", text
    )
    assert (
        "another image model"
        not in vgen("from=carded.safetensors", "to=vgen", "backbone=image", "out=on_own")[1]
    )


def test_what_half_precision_cannot_hold_is_named():
    with pytest.raises(ValueError, match=r"1 tensors are not finite in fp16 \(first: b\)"):
        cast({"a": torch.ones(2), "b": torch.full((2,), 1e6)}, Width.FP16)


def test_a_wider_type_is_no_remedy_where_there_is_none():
    with pytest.raises(
        ValueError, match=r"1 tensors are not finite in fp32 \(first: a\); the training diverged$"
    ):
        cast({"a": torch.full((2,), float("nan"))}, Width.FP32)
    with pytest.raises(ValueError, match=r"diverged, or dtype=fp32 is needed$"):
        cast({"a": torch.full((2,), float("nan"))}, Width.FP16)


def test_an_adapter_beneath_is_said_to_stay_behind(vgen, home):
    tensors, card = adapter(home / "run")
    base = [{"name": "domain", "file": "domain.safetensors", "sha256": "0", "scale": 1.0}]
    save_adapter(home / "stacked" / "adapter.safetensors", tensors, replace(card, base=base))
    code, text, err = vgen("run=stacked", "out=stacked.safetensors")
    assert code == 0, err
    assert "it was trained on domain.safetensors, which is not in what was written" in text


def test_a_card_with_knobs_of_an_older_vgen_is_written_without_them(vgen, home, tuned):
    tensors, card = adapter(home / "tuned_run")
    older = replace(card, knobs=card.knobs | {"num_steps": 50, "guidance": 12.5})
    save_adapter(home / "older" / "adapter.safetensors", tensors, older)
    assert vgen("run=older", "out=older.safetensors")[0] == 0
    code, _, err = vgen("from=older.safetensors", "to=vgen", "backbone=image", "out=older_back")
    assert code == 0, err
    assert adapter(home / "older_back")[1].knobs == card.knobs


@pytest.fixture(scope="module")
def tuned(home: Path) -> str:
    """A run of Tune-A-Video beside the others."""
    model, draw = load_backbone(str(home / "image")), torch.Generator().manual_seed(1)
    recipe = TuneAVideo(inversion_prompt="a jeep")
    unet = assemble(recipe, model).unet
    learnt = {
        f"unet.{n}": p.detach() + 0.05 * torch.randn(p.shape, generator=draw)
        for n, p in unet.named_parameters()
        if any(fnmatchcase(f"unet.{n}", q) for q in recipe.learns())
    }
    unet.eject()
    card = Card.of("tune_a_video", recipe, model, {}, {"steps": 3})
    save_adapter(home / "tuned_run" / "adapter.safetensors", learnt, card)
    return "run=tuned_run"


def test_a_tuned_unet_there_and_back(vgen, home, tuned):
    """The recipe's own format is written where none is named."""
    code, text, err = vgen(tuned, "out=unet.safetensors")
    assert code == 0, err
    for words in (
        "tune_a_video, fp32",
        "imported again they are the adapter's",
        "could not be proved: it is no package",
        "reads first + previous, as Tune-A-Video's code does",
        "the recipe has image frame; the released code always has image clip",
    ):
        assert words in text
    code, text, err = vgen("from=unet.safetensors", "to=vgen", "backbone=image", "out=tuned_back")
    assert code == 0, err
    assert "its knobs come from the vgen card" in text
    (tensors, card), (before, first) = adapter(home / "tuned_back"), adapter(home / "tuned_run")
    assert same(tensors, before)
    assert (card.recipe, card.knobs) == (first.recipe, first.knobs)


def test_one_file_may_be_of_several_methods(vgen, home, tuned):
    assert vgen(tuned, "out=unet.ckpt")[0] == 0
    code, text, err = vgen("from=unet.ckpt", "to=vgen", "backbone=image", "out=guessed")
    assert code == 0, err
    assert "taken for method tune_a_video's" in text
    assert "method=video_p2p imports it as that" in " ".join(text.split())
    code, text, err = vgen("from=unet.ckpt", "to=vgen", "backbone=image", "out=said", "method=video_p2p")
    assert code == 0, err
    assert "taken for" not in text
    assert same(adapter(home / "said")[0], adapter(home / "guessed")[0])
    assert [adapter(home / run)[1].recipe for run in ("guessed", "said")] == ["tune_a_video", "video_p2p"]
    assert vgen("run=said", "out=as_said")[0] == 0
    code, text, err = vgen("from=as_said.safetensors", "to=vgen", "backbone=image", "out=said_again")
    assert code == 0, err
    assert adapter(home / "said_again")[1].recipe == "video_p2p", "its card says so"
    other = ("from=as_said.safetensors", "to=vgen", "backbone=image", "method=tune_a_video")
    code, text, err = vgen(*other, "out=overruled")
    assert code == 0, err
    assert "the vgen card that it carries is method video_p2p's and was left unread" in text
    assert adapter(home / "overruled")[1].knobs["image_norm_scope"] == "clip"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run=tuned_run", "to=diffusers", "out=a"],
            "run=tuned_run was made by method tune_a_video, for which to=diffusers has no names; export it "
            "to=vgen or to=tune_a_video",
        ),
        (
            ["from=unet.ckpt", "to=animatediff", "backbone=image", "out=a"],
            "from=unet.ckpt is of method tune_a_video, for which to=animatediff has no names; import it "
            "to=vgen or to=tune_a_video",
        ),
        (
            ["from=unet.ckpt", "to=vgen", "backbone=image", "out=a", "num_positions=24"],
            "whose attention knows no positions, got num_positions=24",
        ),
        (
            ["from=image", "to=vgen", "backbone=image", "out=a", "method=tune_a_video"],
            "from=image holds no temporal layers",
        ),
        (
            ["from=unet.ckpt", "to=vgen", "backbone=image", "out=a", "method=masactrl"],
            "method=masactrl has no format of other programs to import; those that have are align_your_",
        ),
        (["run=run", "out=a", "method=video_p2p"], "a run knows its own, leave it out"),
        (["run=bare", "out=a"], "made by method masactrl, for which no other program has names; export it"),
        (
            ["run=run", "to=difusers", "out=a"],
            "'difusers' is no format; expected one of [vgen, animatediff, diffusers, controlnet, ",
        ),
    ],
)
def test_formats_that_a_method_does_not_have(vgen, home, tuned, arguments, message):
    if not (home / "unet.ckpt").exists():
        assert vgen(tuned, "out=unet.ckpt")[0] == 0
    model = load_backbone(str(home / "image"))
    card = Card.of("masactrl", MasaCtrl(), model, {}, {})
    save_adapter(home / "bare" / "adapter.safetensors", {"x": torch.zeros(1)}, card)
    code, _, err = vgen(*arguments)
    assert code == 2
    assert message in err
    assert not (home / "a").exists()


def test_a_tuned_pipelines_folder_is_imported(tmp_path: Path) -> None:
    """Tune-A-Video saves whole pipelines; the UNet in one is found, read as data and written as an adapter
    that vgen opens."""
    from safetensors.torch import save_file

    from vgen.app.loading import open_checkpoint
    from vgen.formats import tune_a_video

    model = load_backbone("toybox")
    unet = assemble(TuneAVideo(), model).unet
    learns = TuneAVideo().learns()
    tensors = {
        f"unet.{n}": torch.randn_like(p)
        for n, p in unet.named_parameters()
        if any(fnmatchcase(f"unet.{n}", q) for q in learns)
    }
    unet.eject()
    (tmp_path / "tuned" / "unet").mkdir(parents=True)
    state = {n: v.contiguous() for n, v in tune_a_video.export(tensors, model.unet).items()}
    save_file(state, tmp_path / "tuned" / "unet" / "diffusion_pytorch_model.safetensors")
    export(
        Export(
            source=str(tmp_path / "tuned"),
            to="vgen",
            backbone="toybox",
            out=str(tmp_path / "ours.safetensors"),
        )
    )
    opened = open_checkpoint(str(tmp_path / "ours.safetensors"))
    assert isinstance(opened.recipe, TuneAVideo)
    assert opened.recipe.image_norm_scope is NormScope.CLIP, "what it was trained with"
    name = next(n for n in tensors if ".attn_temp.to_q" in n)
    assert torch.equal(opened.unet.get_parameter(name.removeprefix("unet.")), tensors[name])
