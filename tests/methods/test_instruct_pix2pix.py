"""Laws of InstructPix2Pix: diffusers computes the same, files come and go, and a run survives its death."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
from diffusers.models import UNet2DConditionModel

from vgen.app.edit import EditRun, edit, edit_files
from vgen.app.export import Export, export
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import drawn
from vgen.diffusion.solvers import Solver, Spacing
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.formats.instruct_pix2pix import wide_config, wide_unet
from vgen.methods import VideoModel, assemble, catalogue
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import heard, start_noise
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods._wishes import Wish
from vgen.methods.fatezero import FateZero
from vgen.methods.instruct_pix2pix import InstructPix2Pix

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
INSTRUCTION = "make the red circle blue"
FEW = SamplingOverrides(num_steps=2)


def taught(model: ImageModel) -> tuple[VideoModel, dict[str, torch.Tensor]]:
    """A video model whose every tensor matters, and the tensors."""
    video_model = assemble(InstructPix2Pix(), model)
    draw = torch.Generator().manual_seed(2)
    tensors = {}
    with torch.no_grad():
        for name, p in video_model.unet.named_parameters():
            p.add_(0.03 * torch.randn(p.shape, generator=draw))
            tensors[f"unet.{name}"] = p.detach().clone()
    return video_model, tensors


def picture(frames: int = 1, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, side, side, 3)).astype(np.uint8)


def session_of(video_model: VideoModel, video: np.ndarray, **how: Any) -> EditSession:
    model, device = video_model.model, torch.device("cpu")
    side = video.shape[1] // model.vae_factor
    return EditSession(
        video_model=video_model,
        wish=Wish(instruction=INSTRUCTION),
        noise=start_noise(model, len(video), (side, side), 3, device, video_model.start),
        sampling=how.pop("sampling", Sampling(num_steps=4, guidance=7.5, solver=Solver.EULER_ANCESTRAL)),
        fields=heard(InstructPix2Pix(), video, device),
        **how,
    )


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[str, str]:
    """A backbone's folder and an adapter upon it."""
    model = blank(Blank.TOYBOX, seed=0).freeze()
    save(model, tmp_path / "model", torch.float32)
    model.source = str(tmp_path / "model")
    card = Card.of("instruct_pix2pix", InstructPix2Pix(), model, {}, {})
    save_adapter(tmp_path / "adapter.safetensors", taught(model)[1], card)
    return str(tmp_path / "model"), str(tmp_path / "adapter.safetensors")


# -- the same as others --------------------------------------------------------------------------------------
@torch.no_grad()
def test_diffusers_edits_a_picture_alike(tiny: ImageModel) -> None:
    """Same weights, noise of the start and of every step; what is left is rounding."""
    video_model, tensors = taught(tiny)
    wide = wide_unet(tiny.unet, {n: v.clone() for n, v in tensors.items()})
    scheduler = EulerAncestralDiscreteScheduler(
        **{k: v for k, v in tiny.scheduler_config.items() if k.startswith("beta")},
        timestep_spacing="trailing",
    )
    pipe = StableDiffusionInstructPix2PixPipeline(
        tiny.vae,
        tiny.text_encoders[0],
        tiny.tokenizer,
        wide,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    video = picture()
    session = session_of(video_model, video, sampling=Sampling(num_steps=6, guidance=4.0))
    noise = session.noise[:, 0]
    sigma = (1 - video_model.schedule.alphas_cumprod()[-1]).sqrt().float()
    theirs = pipe(
        INSTRUCTION,
        torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255,
        num_inference_steps=6,
        guidance_scale=4.0,
        image_guidance_scale=1.5,
        latents=noise / sigma,
        generator=torch.Generator().manual_seed(9),
        output_type="latent",
    ).images
    draw = torch.Generator().manual_seed(9)

    class Theirs(EditSession):
        """Their noise of every step: one generator, in order."""

        def fresh(self, step: int) -> torch.Tensor:
            return torch.randn(noise.shape, generator=draw)[:, None]

    same = {name: getattr(session, name) for name in EditSession.__dataclass_fields__}
    ancestral = replace(session.sampling, solver=Solver.EULER_ANCESTRAL, spacing=Spacing.TRAILING)
    ours = InstructPix2Pix(shared_noise=False).edit(Theirs(**{**same, "sampling": ancestral})).latents
    assert float((ours[:, 0] - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_as_many_parameters_as_diffusers_has() -> None:
    with torch.device("meta"):
        guest = blank_unet(Blank.SD15)
        wide = UNet2DConditionModel(**wide_config(guest))
        model = ImageModel(
            unet=guest,
            vae=None,
            text_encoders=[],
            tokenizer=None,
            scheduler_config={"beta_start": 1},  # type: ignore[arg-type]
        )
        unet = assemble(InstructPix2Pix(), model).unet
    assert sum(p.numel() for p in unet.parameters()) == sum(p.numel() for p in wide.parameters())


# -- its own laws --------------------------------------------------------------------------------------------
def test_three_shares_of_dropout_are_hit_in_one_draw() -> None:
    num = 2000
    draws = Draws(5, [(f"s{i}", 0) for i in range(num)])
    dropped = drawn(InstructPix2Pix().dropout(), draws.uniform("text_drop", torch.device("cpu")).tolist())
    for names in ({"text"}, {"text", "image"}, {"image"}):
        assert abs(dropped.count(frozenset(names)) - 0.05 * num) < 3 * (0.05 * 0.95 * num) ** 0.5


@torch.no_grad()
def test_image_latents_are_unscaled(tiny: ImageModel) -> None:
    """What stands beside x is the posterior's mode itself."""
    session = session_of(assemble(InstructPix2Pix(), tiny), picture())
    said = session.encoded(INSTRUCTION)["image"].frames["latents"]
    pixels = session.fields["source"][:, 0].float() / 127.5 - 1
    torch.testing.assert_close(said[:, 0], tiny.vae.encode(pixels).latent_dist.mode())


@torch.no_grad()
def test_a_clip_of_one_picture_stays_still(tiny: ImageModel) -> None:
    """First-frame keys and one noise for all frames: equal frames in, equal frames out, and each is the
    picture's own edit. With a noise of its own a frame is another."""
    video_model, _ = taught(tiny)
    one = InstructPix2Pix().edit(session_of(video_model, picture())).latents
    clip = session_of(video_model, picture().repeat(3, 0))
    three = InstructPix2Pix().edit(clip).latents
    torch.testing.assert_close(three, one.expand_as(three), atol=1e-3, rtol=1e-3)
    video_model.start = InstructPix2Pix(shared_noise=False).start()
    apart = InstructPix2Pix().edit(session_of(video_model, picture().repeat(3, 0))).latents
    assert not torch.allclose(apart[:, 1], apart[:, 0], atol=1e-2)


@torch.no_grad()
def test_the_source_is_heard(tiny: ImageModel) -> None:
    video_model, _ = taught(tiny)
    a, b = (InstructPix2Pix().edit(session_of(video_model, v)).latents for v in (picture(), 255 - picture()))
    assert not torch.allclose(a, b, atol=1e-2)


# -- files ---------------------------------------------------------------------------------------------------
def test_a_published_folder_comes_and_goes(adapter: tuple[str, str], tmp_path: Path) -> None:
    """Adapter to folder, which diffusers opens, and back to the same tensors."""
    backbone, file = adapter
    export(Export(run=file, out=str(tmp_path / "pipe")))
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        tmp_path / "pipe", local_files_only=True, low_cpu_mem_usage=False
    )
    assert pipe.unet.config["in_channels"] == 8
    assert isinstance(pipe.scheduler, EulerAncestralDiscreteScheduler)
    (tmp_path / "pipe" / "vgen.json").unlink()  # as others publish it
    export(Export(source=str(tmp_path / "pipe"), to="vgen", backbone=backbone, out=str(tmp_path / "again")))
    tensors, card = load_adapter(tmp_path / "again" / "adapter.safetensors")
    before, _ = load_adapter(Path(file))
    assert card.recipe == "instruct_pix2pix"
    assert tensors.keys() == before.keys()
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


def test_a_folder_of_other_shapes_is_refused(adapter: tuple[str, str], tmp_path: Path) -> None:
    export(Export(run=adapter[1], out=str(tmp_path / "pipe")))
    save(blank(Blank.SD15_NARROW), tmp_path / "other", torch.float32)
    wish = Export(
        source=str(tmp_path / "pipe"), to="vgen", backbone=str(tmp_path / "other"), out=str(tmp_path / "x")
    )
    (tmp_path / "pipe" / "vgen.json").unlink()
    with pytest.raises(ValueError, match="has a UNet of other shapes than the image model"):
        export(wish)


# -- the command ---------------------------------------------------------------------------------------------
def shot(folder: Path, side: int = 64) -> str:
    from PIL import Image

    Image.fromarray(picture(1, side)[0]).save(folder / "p.png")
    return str(folder / "p.png")


def test_a_picture_is_edited_by_an_instruction(adapter: tuple[str, str], tmp_path: Path) -> None:
    run = EditRun(
        method=InstructPix2Pix(),
        image=shot(tmp_path),
        instruction=INSTRUCTION,
        adapter=adapter[1],
        sampling=FEW,
        out=str(tmp_path / "out"),
    )
    out = edit_files(run, {})
    assert {p.name for p in out.iterdir()} >= {"edited.png", "edited.mp4", "side_by_side.mp4", "card.json"}
    assert json.loads((out / "card.json").read_text())["instruction"] == INSTRUCTION


def test_the_same_seed_edits_alike(adapter: tuple[str, str], tmp_path: Path) -> None:
    run = EditRun(
        method=InstructPix2Pix(),
        image=shot(tmp_path, 20),
        instruction=INSTRUCTION,
        adapter=adapter[1],
        sampling=SamplingOverrides(num_steps=3),
    )
    a, b, c = edit(run).video, edit(run).video, edit(replace(run, seed=1)).video
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"instruction": ""}, "is told what to do; give instruction="),
        ({"source": "a"}, "and leave out source"),
        ({"adapter": ""}, "edits with what it has learnt of instructions; give adapter=RUN"),
        ({"method": FateZero()}, "follows no instruction, it wants source=... and target=...; methods that"),
        ({"adapter": "shipped"}, "was made by method=animatediff and follows no instruction"),
        ({"video": "x.mp4"}, "are both given; edit one of them"),
    ],
)
def test_what_a_mistake_says(
    adapter: tuple[str, str], tmp_path: Path, how: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {
        "method": InstructPix2Pix(),
        "image": shot(tmp_path),
        "instruction": INSTRUCTION,
        "adapter": adapter[1],
        "sampling": FEW,
    }
    with pytest.raises(ValueError, match=said):
        edit(EditRun(**{**given, **how}))


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(ValueError, match="drop is taken three times and lies in"):
        catalogue()["instruct_pix2pix"](drop=0.5)  # type: ignore[call-arg]
