"""What an image model's files say is obeyed, without effect, or refused by name before weights are read."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers.schedulers
import pytest
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTokenizer

from vgen.backbones.blank import Blank, blank
from vgen.backbones.config_check import refuse_unread, scheduler_of
from vgen.backbones.config_keys import KINDS, SCHEDULER, TEXT_ENCODER, TOKENIZER, UNET, VAE, page
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import load, save
from vgen.backbones.skeleton import skeleton
from vgen.data.clip_files import to_uint8
from vgen.diffusion.schedule import schedule_of

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "image_models.md"


def keys_of(made: Any) -> set[str]:
    found = inspect.signature(made.__init__).parameters.values()
    return {p.name for p in found if p.name != "self" and p.kind is not p.VAR_KEYWORD}


def test_no_key_of_the_installed_libraries_is_unknown() -> None:
    """A key that a newer version adds has to be thought about: enter it into config_keys.py."""
    assert set(UNET.keys) == keys_of(UNet2DConditionModel)
    assert set(VAE.keys) == keys_of(AutoencoderKL)
    assert set(TEXT_ENCODER.keys) == keys_of(CLIPTextConfig)
    assert set(TOKENIZER.keys) == keys_of(CLIPTokenizer)
    schedulers = [getattr(diffusers.schedulers, name) for name in SCHEDULER.classes]
    assert set(SCHEDULER.keys) == set.union(*map(keys_of, schedulers))


def test_the_guide_is_the_table() -> None:
    assert GUIDE.read_text(encoding="utf-8") == page()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "sound"
    save(blank(Blank.TOYBOX, seed=0), folder)
    return folder


@pytest.fixture
def saying(sound: Path, tmp_path: Path):
    """A folder of configurations in which one file says something else."""

    def change(file: str, **values: Any) -> Path:
        for path in sound.rglob("*.json"):
            copy = tmp_path / "model" / path.relative_to(sound)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        path = tmp_path / "model" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return tmp_path / "model"

    return change


UNET_FILE, VAE_FILE, SCHEDULE = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another scheduler": (
        SCHEDULE,
        {"_class_name": "EDMDPMSolverMultistepScheduler"},
        r"scheduler_config\.json is of a EDMDPMSolverMultistepScheduler; vgen reads DDIMScheduler",
    ),
    "flow matching": (SCHEDULE, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
    "another VAE": (VAE_FILE, {"_class_name": "AutoencoderTiny"}, "is of a AutoencoderTiny"),
    "another UNet": (UNET_FILE, {"_class_name": "UNetMotionModel"}, "is of a UNetMotionModel"),
    "another tokenizer": (
        "tokenizer/tokenizer_config.json",
        {"tokenizer_class": "T5Tokenizer"},
        "T5Tokenizer",
    ),
    "an inpainting UNet": (
        UNET_FILE,
        {"in_channels": 9},
        "reads 9 channels and its VAE gives 4: it is an inp",
    ),
    "instructions": (
        UNET_FILE,
        {"in_channels": 8},
        "a model that edits by instruction; give the text-to-image",
    ),
    "depth": (UNET_FILE, {"in_channels": 5}, "a model of depth"),
    "learned variance": (UNET_FILE, {"out_channels": 8}, "returns 8 channels and its VAE gives 4"),
    "classes": (
        UNET_FILE,
        {"class_embed_type": "timestep"},
        r'class_embed_type="timestep", which vgen does not',
    ),
    "a distilled UNet": (UNET_FILE, {"time_cond_proj_dim": 256}, r"time_cond_proj_dim=256, .* guidance"),
    "other blocks": (UNET_FILE, {"down_block_types": ["SimpleCrossAttnDownBlock2D"]}, "down_block_types="),
    "zero terminal SNR": (SCHEDULE, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=true"),
    "clipped latents": (SCHEDULE, {"clip_sample": True}, "it is for pictures, not for latents"),
    "capitals": ("tokenizer/tokenizer_config.json", {"do_lower_case": False}, "do_lower_case=false"),
    "a key of tomorrow": (UNET_FILE, {"novelty": 3}, "novelty=3, a key that vgen does not know; take it out"),
}


@pytest.mark.parametrize(("file", "values", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_not_be_obeyed_is_refused_by_name(
    saying, file: str, values: dict[str, Any], sentence: str
) -> None:
    folder = saying(file, **values)
    for opened in (load, skeleton):
        with pytest.raises(ValueError, match=sentence):
            opened(folder)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, of numpy 2
@pytest.mark.parametrize("name", SCHEDULER.classes)
def test_every_scheduler_is_read_with_its_own_noise(saying, name: str) -> None:
    """A file that says nothing of the noise means what diffusers' class means."""
    folder = saying(SCHEDULE)
    (folder / SCHEDULE).write_text(json.dumps({"_class_name": name}))
    refuse_unread(folder)
    ours = schedule_of(scheduler_of(folder)).alphas_cumprod()
    theirs = getattr(diffusers.schedulers, name)()
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, rtol=1e-5, atol=1e-6)
    ends_clean = theirs.config.get("set_alpha_to_one", True)
    assert schedule_of(scheduler_of(folder)).ddim_ends_clean is ends_clean


def test_the_folders_that_vgen_writes_and_ships_are_read(sound: Path) -> None:
    refuse_unread(sound)
    refuse_unread(Path(__file__).parents[2] / "data" / "toybox")


def test_every_file_of_a_folder_is_looked_at(sound: Path) -> None:
    there = {path.parent.name for path in sound.rglob("*config.json")} - {
        "feature_extractor",
        "image_encoder",
    }
    assert there <= set(KINDS)


def test_units_of_latents_are_obeyed_and_undone(tiny: ImageModel) -> None:
    """diffusers' SDXL pipelines: latents = (z - mean) scaling / std."""
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, 2, 3, 64, 64, generator=generator) * 2 - 1
    with torch.no_grad():
        plain, shown = tiny.encode(video), tiny.decode(tiny.encode(video))
        scaling = tiny.vae.config["scaling_factor"]
        mean, std = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([1.0, 2.0, 0.5, 3.0])
        tiny.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        units = tiny.encode(video)
        expected = (plain / scaling - mean[:, None, None]) * scaling / std[:, None, None]
        torch.testing.assert_close(units, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(tiny.decode(units), shown, rtol=1e-4, atol=1e-5)


def overflowing(model: ImageModel) -> ImageModel:
    """In fp32 the picture is ordinary, since group norms follow."""
    for name, value in model.vae.named_parameters():
        if name.startswith("decoder.up_blocks.") and name.endswith("conv2.weight"):
            value.data *= 3e5
    return model


@pytest.mark.parametrize("said", [True, False])
def test_a_vae_that_overflows_in_fp16_stays_in_fp32(tiny: ImageModel, said: bool) -> None:
    latents = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model = overflowing(tiny)
    model.vae.register_to_config(force_upcast=said)
    names = [n for n in model.vae.config.get("_use_default_values", []) if n != "force_upcast"]
    model.vae.register_to_config(_use_default_values=names)
    with torch.no_grad():
        exact = to_uint8(model.decode(latents)[0])
        model.to("cpu", torch.float16)
        drawn = model.decode(latents)[0]
    assert model.unet.dtype is torch.float16
    assert model.vae.dtype is (torch.float32 if said else torch.float16)
    if said:
        assert abs(to_uint8(drawn).astype(int) - exact).max() <= 1
        return
    with pytest.raises(ValueError, match=r"values of 12,288 that are not finite, which no picture can show"):
        to_uint8(drawn)


def test_autocast_leaves_such_a_vae_alone(tiny: ImageModel) -> None:
    latents = torch.randn(1, 1, 4, 8, 8)
    tiny.vae.register_to_config(force_upcast=True, _use_default_values=[])
    with torch.no_grad():
        exact = tiny.decode(latents)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(tiny.decode(latents), exact)
