"""SparseCtrl: diffusers computes the same, frames at any places, files, bad input and training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models import SparseControlNetModel
from PIL import Image

from vgen.app.export import Export, export
from vgen.app.generate import GenerateRun, generate_files
from vgen.app.given_fields import GivenField, given_fields
from vgen.app.loading import load_backbone, open_checkpoint
from vgen.app.spellings import respelt
from vgen.app.stacks import StackEntry, recipe_of
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import revealed
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.diffusion.draws import Draws
from vgen.formats import proof
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.formats.diffusers_motion import OURS_TO_THEIRS
from vgen.formats.sparse_ctrl import arguments_for
from vgen.formats.sparse_ctrl import export as their_names
from vgen.methods import VideoModel, assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._sampling import Prompt, Sampling, SamplingOverrides, generate
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.control_net import ControlNets
from vgen.methods.sparse_ctrl import Given, SparseCtrl
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings

FRAMES, SIDE, BLANK = 3, 64, "blank:sd15_narrow:0"
KINDS = pytest.mark.parametrize("given", list(Given))


@torch.no_grad()
def moved(model: ImageModel, recipe: SparseCtrl, *more: Part) -> VideoModel:
    """Everything that learns says something."""
    torch.manual_seed(0)
    video_model = assemble_stack([*more, Part("", recipe)], model)
    draw = torch.Generator().manual_seed(1)
    for part in (video_model.unet.inserted, *video_model.modules.values()):
        for p in part.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return video_model


def learnt(recipe: SparseCtrl, video_model: VideoModel) -> dict[str, torch.Tensor]:
    name = recipe.condition.value
    named = {f"{name}.{n}": p.detach() for n, p in video_model.modules[name].named_parameters()}
    return {n: p for n, p in named.items() if not n.endswith("control_net.conv_in.weight")}


# -- the same as others --------------------------------------------------------------------------------------
@KINDS
def test_as_many_parameters_as_diffusers_has(given: Given, tiny: ImageModel) -> None:
    recipe = SparseCtrl(condition=given)
    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
        model = ImageModel(
            unet=unet,
            vae=tiny.vae,
            text_encoders=[],
            tokenizer=None,
            scheduler_config={"beta_start": 1},  # type: ignore[arg-type]
        )
        knobs = {"condition": given.value, "motion": {"num_positions": 32, "heads": 8}}
        theirs = SparseControlNetModel(**arguments_for(unet, knobs, 3))
        net = assemble(recipe, model).modules[given.value]
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in theirs.parameters())


@KINDS
@torch.no_grad()
def test_diffusers_says_the_same_on_a_published_folder(given: Given, tmp_path: Path) -> None:
    """Their random weights, saved by diffusers, taken in by vgen."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model = load_backbone(BLANK)
    knobs = {"condition": given.value, "motion": {"num_positions": 32, "heads": 8}}
    torch.manual_seed(0)
    stock = SparseControlNetModel(**arguments_for(model.unet, knobs, 3)).eval()
    for p in stock.parameters():
        p.add_(0.05 * torch.randn_like(p))
    stock.save_pretrained(theirs)
    export(Export(source=str(theirs), to="vgen", out=str(ours), backbone=BLANK))
    video_model = open_checkpoint(str(ours), BLANK, "cpu").video_model
    inputs, factor = proof.inputs(model.unet, FRAMES), 1 if given is Given.FRAMES else 8
    side, channels = factor * inputs.x.shape[-1], 4 if given is Given.FRAMES else 3
    shown = torch.rand(2, FRAMES, channels, side, side, generator=torch.Generator().manual_seed(2))
    counts = torch.tensor([[True, False, True], [False, True, False]])
    fields = {given.value: shown, revealed(given.value): counts, "latents": inputs.x}
    if given is not Given.FRAMES:
        fields[given.value] = (255 * shown).byte()
        shown = fields[given.value] / 255
    condition = video_model.conditions[given.value]
    net = video_model.modules[given.value]
    encoded = condition.encode(video_model.model, net, fields)
    text = Conditioning(inputs.context)
    said = condition.conditioning(net, encoded, inputs.x, inputs.t, None, text).residuals
    assert said is not None
    mask = counts[:, None, :, None, None].float().expand(2, 1, FRAMES, side, side)
    down, mid = stock(
        inputs.x.transpose(1, 2),
        inputs.t,
        inputs.context.tokens.repeat_interleave(FRAMES, 0),
        shown.transpose(1, 2) * mask,
        conditioning_mask=mask,
        return_dict=False,
    )
    for a, b in zip((*said.down, said.mid), (*down, mid), strict=True):
        assert b.abs().max() > 0.01
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# -- its own laws --------------------------------------------------------------------------------------------
@torch.no_grad()
def test_it_never_sees_the_noise_and_is_born_silent(tiny: ImageModel) -> None:
    recipe = SparseCtrl()
    inputs = proof.inputs(tiny.unet, FRAMES)
    fields = {"frames": inputs.x, "latents": inputs.x}

    def said(video_model: VideoModel, x: torch.Tensor) -> torch.Tensor:
        condition, net = video_model.conditions["frames"], video_model.modules["frames"]
        encoded = condition.encode(tiny, net, fields)
        given = condition.conditioning(net, encoded, x, inputs.t, None, Conditioning(inputs.context))
        assert given.residuals is not None
        return given.residuals.mid

    assert not said(assemble(recipe, tiny), inputs.x).any()
    heard = moved(tiny, recipe)
    assert torch.equal(said(heard, inputs.x), said(heard, 3 * inputs.x + 1))


@torch.no_grad()
def test_frames_that_do_not_count_are_not_seen_and_those_that_do_speak_to_all(tiny: ImageModel) -> None:
    video_model = moved(tiny, SparseCtrl(), Part("motion", AnimateDiff()))
    few = Sampling(num_frames=FRAMES, num_steps=2, width_px=SIDE, height_px=SIDE)

    def drawn(first: int, last: int, *counts: bool) -> torch.Tensor:
        pictures = torch.full((1, FRAMES, 3, SIDE, SIDE), first, dtype=torch.uint8)
        pictures[:, -1] = last
        fields = {"frames": pictures, revealed("frames"): torch.tensor([counts])}
        return generate(video_model, [Prompt("a red circle", 0)], few, more=fields)

    alone = drawn(0, 200, True, False, False)
    assert torch.equal(alone, drawn(0, 90, True, False, False))
    assert not torch.allclose(alone, drawn(90, 90, True, False, False))
    both = drawn(0, 200, True, False, True)
    assert not torch.allclose(both[:, 0], alone[:, 0]), "the last frame speaks to the first"


def test_training_shows_from_one_frame_to_all_by_chance() -> None:
    objective = SparseCtrl().objective(None)  # type: ignore[arg-type]  # asks it nothing
    latents = torch.zeros(600, 4, 1, 1, 1)
    draws = Draws(3, [(f"s{i}", 0) for i in range(600)])
    shown = objective._revealed({}, latents, draws)
    assert shown["frames"] is latents
    counts = shown[revealed("frames")].sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}
    assert all(abs(int((counts == n).sum()) - 150) < 45 for n in range(1, 5))
    assert (shown[revealed("frames")].sum(0) > 300).all()
    own = torch.ones(600, 4, 8, 8)
    assert (
        SparseCtrl(condition=Given.SCRIBBLE)
        .objective(None)
        ._revealed(  # type: ignore[arg-type]
            {"scribble": own}, latents, draws
        )["scribble"]
        is own
    )


@KINDS
def test_checkpointing_changes_nothing(given: Given, tiny: ImageModel) -> None:
    recipe = SparseCtrl(condition=given)
    learner = Learner(recipe, tiny, Optimisation(), seed=0, max_steps=1)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in learner.learning.values():
            p.add_(0.05 * torch.randn_like(p))
    batch = Batch(keys=[("a", 0)], captions=["a red circle"], latents=torch.randn(1, FRAMES, 4, 8, 8))
    batch.fields["scribble"] = torch.randint(0, 2, (1, FRAMES, SIDE, SIDE), dtype=torch.uint8) * 255

    def gradients() -> list[torch.Tensor]:
        learner.zero_grad(set_to_none=True)
        learner.objective.undropped().loss(learner.video_model, batch, Draws(0, batch.keys))[
            "loss"
        ].backward()
        return [p.grad.clone() for p in learner.learning.values() if p.grad is not None]

    plain = gradients()
    learner.video_model.enable_gradient_checkpointing()
    again = gradients()
    assert len(plain) == len(again) == len(learner.learning)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


# -- files and the command line ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A net for frames, one for scribbles, a motion module, and two pictures."""
    folder, out = tmp_path_factory.mktemp("files"), {}
    for given in Given:
        model, recipe = load_backbone(BLANK), SparseCtrl(condition=given)
        tensors = learnt(recipe, moved(model, recipe))
        out[given.value] = folder / given.value / "adapter.safetensors"
        save_adapter(out[given.value], tensors, Card.of("sparse_ctrl", recipe, model, {}, {}))
    model, motion = load_backbone(BLANK), AnimateDiff()
    unet = assemble(motion, model).unet
    own = {f"unet.{n}": p.detach() for n, p in unet.named_parameters() if n.startswith("inserted.")}
    out["motion"] = folder / "motion.safetensors"
    save_adapter(out["motion"], own, Card.of("animatediff", motion, model, {}, {}))
    for name, grey in (("first", 20), ("last", 230)):
        out[name] = folder / f"{name}.png"
        Image.fromarray(np.full((80, 80, 3), grey, np.uint8)).save(out[name])
    return out


def drawn(out: Path, files: dict[str, Path], given: str, *fields: GivenField) -> np.ndarray:
    few = SamplingOverrides(num_frames=FRAMES, num_steps=1, width_px=SIDE, height_px=SIDE)
    stack = [
        StackEntry(name="motion", file=str(files["motion"])),
        StackEntry(name="sparse", file=str(files[given])),
    ]
    wish = GenerateRun(
        prompt="a red circle", stack=stack, fields=list(fields), sampling=few, least_px=0, out=str(out)
    )
    folder = generate_files(wish, {})
    return np.asarray(Image.open(next(folder.glob("*.png"))))


@KINDS
def test_frames_are_given_by_their_numbers(given: Given, files: dict[str, Path], tmp_path: Path) -> None:
    name, first, last = given.value, files["first"], files["last"]
    one = GivenField(name=name, file=f"[0:{first}]")
    two = GivenField(name=name, file=f"[0:{first},{FRAMES - 1}:{last}]")
    from_the_end = GivenField(name=name, file=f"[0:{first},-1:{last}]")
    assert [file.name for file in two.places.values()] == ["first.png", "last.png"]
    plain = drawn(tmp_path / "a", files, name, one)
    both = drawn(tmp_path / "b", files, name, two)
    assert not np.array_equal(plain, both)
    assert np.array_equal(both, drawn(tmp_path / "c", files, name, from_the_end))


def test_the_command_line_hands_them_on() -> None:
    arguments, _ = respelt("generate", ["frames=[0:first.png,15:last.png]"])
    assert arguments == ['fields=[{name:frames,file:"[0:first.png,15:last.png]",found:false}]']


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("[3:{first}]", "names frame 3, and the clip has 3, 0 to 2"),
        ("[0:{first},0:{first}]", "names frame 0 a second time"),
        ("[0:{first},-3:{first}]", "names frame 0 a second time"),
        ("[]", "names no frame"),
        ("{first}", "names no frame"),
        ("[first:{first}]", "must name pictures by numbers"),
        ("[0:{motion}]", "is no picture"),
        ("[0:gone.png]", "is no picture"),
    ],
)
def test_what_is_no_given_frame_is_refused(
    file: str, told: str, files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        drawn(tmp_path / "x", files, "frames", GivenField(name="frames", file=file.format(**files)))


def test_no_given_frame_and_other_sizes_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"listens to frames; give pictures by the numbers"):
        drawn(tmp_path / "x", files, "frames")
    model = load_backbone(BLANK)
    video_model = moved(model, SparseCtrl())
    none = {"frames": torch.zeros(1, 2, 4, 8, 8), "latents": torch.zeros(1, 2, 4, 8, 8)}
    with pytest.raises(ValueError, match="no frame of frames is given"):
        video_model.encode(
            {**none, "caption": ["x"], revealed("frames"): torch.zeros(1, 2, dtype=torch.bool)}
        )
    with pytest.raises(ValueError, match="in the clips' size"):
        video_model.encode({**none, "caption": ["x"], "frames": torch.zeros(1, 2, 4, 4, 4)})


def test_what_wants_all_frames_refuses_some_of_them(tiny: ImageModel) -> None:
    some = [GivenField(name="edges", file="[0:first.png]")]
    with pytest.raises(ValueError, match="wants all of them; give edges=CLIP"):
        given_fields(some, assemble(ControlNets(), tiny), Sampling(num_frames=FRAMES), 8)


@torch.no_grad()
def test_pictures_and_scribbles_of_other_frames_go_together(tiny: ImageModel) -> None:
    both = moved(tiny, SparseCtrl(), Part("scribbles", SparseCtrl(condition=Given.SCRIBBLE)))
    few = Sampling(num_frames=2, num_steps=1, width_px=SIDE, height_px=SIDE)

    def drawn(*counts: bool) -> torch.Tensor:
        fields = {
            "frames": torch.full((1, 2, 3, SIDE, SIDE), 200, dtype=torch.uint8),
            "scribble": torch.full((1, 2, SIDE, SIDE), 255, dtype=torch.uint8),
            revealed("frames"): torch.tensor([[True, False]]),
            revealed("scribble"): torch.tensor([counts]),
        }
        return generate(both, [Prompt("a red circle", 0)], few, more=fields)

    assert not torch.allclose(drawn(False, True), drawn(True, False))


@KINDS
def test_a_folder_goes_there_and_back(given: Given, files: dict[str, Path], tmp_path: Path) -> None:
    """diffusers' own class writes and loads it."""
    theirs = tmp_path / "theirs"
    export(Export(run=str(files[given.value]), to="sparsectrl", out=str(theirs)))
    assert SparseControlNetModel.from_pretrained(theirs).config["motion_max_seq_length"] == 32
    export(Export(source=str(theirs), to="vgen", out=str(tmp_path / "ours"), backbone=BLANK))
    before, after = (load_adapter(p) for p in (files[given.value], tmp_path / "ours/adapter.safetensors"))
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert recipe_of(after[1]) == recipe_of(before[1])


@pytest.mark.parametrize("wrapped", [True, False])
@KINDS
def test_the_authors_own_file_is_read(
    given: Given, wrapped: bool, files: dict[str, Path], tmp_path: Path
) -> None:
    """Their norms are per frame; their names are those of motion modules, and of diffusers beside them."""
    own, model = load_adapter(files[given.value])[0], load_backbone(BLANK)
    knobs = {"condition": given.value, "motion": {"num_positions": 32}}
    state: dict[str, Any] = {}
    for name, value in their_names(own, model.unet, knobs).items():
        inner = "temporal_transformer" if ".motion_modules." in name else ""
        renamed = re.sub(r"(motion_modules\.\d+)\.", rf"\1.{inner}.", name) if inner else name
        if inner:
            for ours, theirs in OURS_TO_THEIRS.items():
                renamed = renamed.replace(f".{theirs}.", f".{ours}.")
        state[renamed.replace(".pos_embed.pe", ".attention_blocks.0.pos_encoder.pe")] = value
    file = tmp_path / "v3_sd15_sparsectrl.ckpt"
    torch.save({"controlnet": state, "animatediff_config": {"a": 1}} if wrapped else state, file)
    export(Export(source=str(file), to="vgen", out=str(tmp_path / "ours"), backbone=BLANK))
    tensors, card = load_adapter(tmp_path / "ours" / "adapter.safetensors")
    assert tensors.keys() == own.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in own.items())
    assert recipe_of(card) == SparseCtrl(condition=given)


def test_one_of_another_image_model_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    export(Export(run=str(files["frames"]), out=str(theirs)))
    with pytest.raises(ValueError, match="belongs to another image model"):
        export(Export(source=str(theirs), to="vgen", out=str(tmp_path / "x"), backbone="blank:toybox:0"))


# -- training ------------------------------------------------------------------------------------------------
def job(folder: Path, shards: Path, resume: bool = False) -> Job:
    usual: dict[str, Any] = {"val_every_steps": 3, "checkpoint_every_steps": 1, "log_every_steps": 1}
    return Job(
        recipe=SparseCtrl(),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(path=str(shards), window=Window(num_frames=2), batch_size=2, val_clips=2, cache=True),
        optimisation=Optimisation(lr=1e-3, warmup_steps=1, ema_decay=0.9),
        settings=TrainerSettings(max_steps=3, num_threads=1, **usual),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=resume,
        plain={"note": "test"},
    )


def test_a_training_that_was_killed_goes_on_as_if_it_had_not(toy_shards: Path, goes_on) -> None:
    assert goes_on(lambda folder, resume: job(folder, toy_shards, resume), 2)
