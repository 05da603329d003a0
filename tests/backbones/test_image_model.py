"""Image models: what goes to disk comes back, and nothing knows SD's numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModelWithProjection

from vgen.backbones.blank import Blank, blank, toybox_words
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.image_model_folder import load, save, text_class
from vgen.backbones.latents import standardise
from vgen.backbones.sites import Kind, Stage, after, sites
from vgen.backbones.skeleton import skeleton
from vgen.resources import data_dir
from vgen.toybox.captions import vocabulary


@torch.no_grad()
def test_standardised_latents_leave_pictures_alone() -> None:
    model = blank(Blank.TOYBOX).freeze()
    model.vae.register_to_config(scaling_factor=1.0)
    pixels = torch.rand(1, 8, 3, 64, 64) * 2 - 1
    latents, picture = model.encode(pixels), model.decode(model.encode(pixels))
    standardise(model.vae, latents.flatten(0, 1))
    after_ = model.encode(pixels)
    torch.testing.assert_close(after_.mean((0, 1, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after_.std((0, 1, 3, 4)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.decode(after_), picture, atol=1e-4, rtol=1e-3)


def test_a_vae_without_its_small_convolutions_cannot_be_standardised() -> None:
    vae = blank(Blank.TOYBOX).vae
    vae.quant_conv = None
    with pytest.raises(ValueError, match="no quant_conv or no post_quant_conv"):
        standardise(vae, torch.randn(8, 4, 4, 4))


def test_sdxl_without_its_second_tokenizer_says_so() -> None:
    model = blank(Blank.SDXL_NARROW)
    model.second_tokenizer = None
    with pytest.raises(ValueError, match="an SDXL without tokenizer_2/"):
        model.encode_text(["a red circle"])


@pytest.mark.parametrize("size", [Blank.TOYBOX, Blank.SD15_NARROW, Blank.SDXL_NARROW])
@torch.no_grad()
def test_save_and_load(size: Blank, tmp_path: Path) -> None:
    model = blank(size, seed=1).freeze()
    save(model, tmp_path / "model", torch.float32)
    again = load(tmp_path / "model").freeze()
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([3])
    a, b = model.encode_text(["a red circle"]), again.encode_text(["a red circle"])
    torch.testing.assert_close(a.tokens, b.tokens)
    added = {"text_embeds": a.pooled, "time_ids": torch.zeros(1, 6)} if model.is_sdxl else None
    want = model.unet(x, t, a.tokens, added_cond_kwargs=added).sample
    got = again.unet(x, t, b.tokens, added_cond_kwargs=added).sample
    torch.testing.assert_close(
        got, want, rtol=1e-5, atol=1e-5
    )  # equal weights at other addresses may be summed in another order
    assert again.scheduler_config["beta_start"] == 0.00085


@pytest.fixture
def stock():
    """Opens a folder as anybody does, with diffusers' own class."""
    import diffusers

    return lambda name, folder: getattr(diffusers, name).from_pretrained(
        folder, local_files_only=True, low_cpu_mem_usage=False
    )


@pytest.mark.parametrize("folder", ["shipped", "saved", "saved in fp32"])
@torch.no_grad()
def test_stock_diffusers_draws_with_what_vgen_writes(stock, tmp_path: Path, folder: str) -> None:
    path = data_dir() / "toybox"
    if folder != "shipped":
        path = tmp_path / "model"
        save(blank(Blank.TOYBOX, seed=3), path, torch.float32 if "fp32" in folder else torch.float16)
    pipe, model = stock("StableDiffusionPipeline", path), load(path).freeze()
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    prompt = "a large red circle on a black background"
    theirs, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    torch.testing.assert_close(theirs, model.encode_text([prompt]).tokens)
    assert model.text_encoders[0](model.tokenize([prompt])).text_embeds.shape == (1, 128)
    assert pipe(prompt, num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)


@torch.no_grad()
def test_stock_diffusers_opens_an_sdxl(stock, tmp_path: Path) -> None:
    save(blank(Blank.SDXL_NARROW, seed=3), tmp_path / "model")
    pipe, model = stock("StableDiffusionXLPipeline", tmp_path / "model"), load(tmp_path / "model").freeze()
    tokens, _, pooled, _ = pipe.encode_prompt("a red circle", device="cpu", do_classifier_free_guidance=False)
    ours = model.encode_text(["a red circle"])
    torch.testing.assert_close(tokens, ours.tokens)
    torch.testing.assert_close(pooled, ours.pooled)


@torch.no_grad()
def test_a_folder_that_names_the_class_with_projection_still_loads(tmp_path: Path) -> None:
    model = blank(Blank.TOYBOX, seed=3).freeze()
    save(model, tmp_path, torch.float32)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    index["text_encoder"][1] = "CLIPTextModelWithProjection"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for again in (load(tmp_path), skeleton(tmp_path)):
        assert isinstance(again.text_encoders[0], CLIPTextModelWithProjection)
    ids = model.tokenize(["a red circle"])
    torch.testing.assert_close(
        load(tmp_path).text_encoders[0](ids).text_embeds, model.text_encoders[0](ids).text_embeds
    )


def test_an_image_encoder_that_was_put_beside_is_read(tmp_path: Path) -> None:
    """As people add one to a model that came without; its index says nothing of it, or null."""
    save(blank(Blank.TOYBOX, 0), tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["feature_extractor"]
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"image_encoder": [None, None]}))
    model = load(tmp_path)
    assert model.image_encoder is not None
    assert model.image_processor is not None


def test_another_text_encoder_than_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="is a T5EncoderModel, only CLIPTextModel and CLIPTextModelWithProjection are supported",
    ):
        text_class(tmp_path, "T5EncoderModel")


# diffusers' log handler keeps the stderr it was imported under, so only a process of its own shows what a
# person would see.
HANDLING = """
import sys
from pathlib import Path

import torch
from transformers.utils import logging

from vgen.backbones.blank import Blank, blank, toybox_words
from vgen.backbones.image_model_folder import load, save

for shown in (False, True):
    logging.enable_progress_bar() if shown else logging.disable_progress_bar()
    save(blank(Blank.TOYBOX), Path(sys.argv[1]), torch.float16)
    load(Path(sys.argv[1])).to("cpu", torch.bfloat16)
    assert logging.is_progress_bar_enabled() is shown, "the caller's setting is lost"
"""


def test_saving_loading_and_casting_print_nothing_and_keep_the_callers_setting(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLING, str(tmp_path / "model")], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_the_tokenizer_is_the_same_every_time() -> None:
    a, b = blank(Blank.TOYBOX).tokenizer, blank(Blank.TOYBOX).tokenizer
    assert a.get_vocab() == b.get_vocab()
    words = ["a", "huge", "magenta", "ring", "which", "is", "drifting"]
    assert a.tokenize(" ".join(words)) == [word + "</w>" for word in words]


def test_the_words_of_a_blank_model_are_those_of_the_toybox_captions() -> None:
    """The words lie in a file, as backbones know no toybox. A new word in a caption goes there too."""
    parts = {part for word in vocabulary() for part in word.split("-")}  # CLIP splits at hyphens
    assert toybox_words() == sorted(part for part in parts if part.isalpha())


def test_a_long_prompt_keeps_its_end() -> None:
    tokenizer = blank(Blank.TOYBOX)
    ids = tokenizer.tokenize(["red " * 100])[0]
    assert len(ids) == 48
    assert ids[-1] == tokenizer.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("folder", "sentence"), [("empty", "has no model_index.json"), ("partial", "lacks vae, text_encoder")]
)
def test_a_folder_that_is_no_model_is_named(tmp_path: Path, folder: str, sentence: str) -> None:
    path = tmp_path / folder
    path.mkdir()
    if folder == "partial":
        (path / "model_index.json").write_text("{}")
        for part in ("unet", "tokenizer", "scheduler"):
            (path / part).mkdir()
    with pytest.raises(ValueError, match=sentence):
        load(path)


def test_context_rows() -> None:
    context = Context(torch.arange(6.0).view(3, 1, 2), torch.arange(3.0).view(3, 1))
    other = Context(torch.full((1, 1, 2), -1.0), torch.full((1, 1), -1.0))
    mixed = context.where(torch.tensor([True, False, True]), other)
    assert mixed.tokens[1, 0, 0] == -1
    assert mixed.tokens[2, 0, 1] == 5
    assert mixed.pooled[1, 0] == -1


def test_sites_of_sd15() -> None:
    """The contract with diffusers: 16 spatial transformers, 22 residual blocks, 20 pairs outside the
    middle."""
    with torch.device("meta"):
        from vgen.backbones.blank import blank_unet

        unet = blank_unet(Blank.SD15)
    found = list(sites(unet))
    assert sum(s.kind is Kind.ATTENTION for s in found) == sum(s.kind is Kind.BLOCK for s in found) == 16
    assert sum(s.kind is Kind.RESNET for s in found) == 22
    pairs = [s for s in found if after(Kind.PAIR, stages=[Stage.DOWN, Stage.UP])(s)]
    assert len(pairs) == 20
    assert pairs[-1].path == "up_blocks.3.attentions.2"
    assert pairs[-1].channels == 320
    assert [s.level for s in pairs if s.stage is Stage.UP][:4] == [3, 3, 3, 2]
    assert all(unet.get_submodule(s.path) is not None for s in found)


def test_an_unknown_prompt_does_not_break(tiny: ImageModel) -> None:
    assert tiny.encode_text(["日本語 xylophone!"]).tokens.shape == (1, 77, 32)


@pytest.fixture
def saved_blank(tmp_path: Path) -> Path:
    save(blank(Blank.TOYBOX, seed=0), tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_of_half_precision_alone_is_read(saved_blank: Path) -> None:
    """As on the hub, where many folders hold nothing but ``*.fp16.safetensors``."""
    want = load(saved_blank).unet.state_dict()
    for file in list(saved_blank.rglob("*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    got = load(saved_blank)
    assert all(torch.equal(value, want[name]) for name, value in got.unet.state_dict().items())
    assert next(got.text_encoders[0].parameters()).dtype is torch.float32


def test_weights_that_cannot_be_read_are_named(saved_blank: Path) -> None:
    file = saved_blank / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"unet cannot be read \(.*fetch or copy it again"):
        load(saved_blank)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(
        ValueError, match=r"unet holds no \.safetensors; other files of weights can execute code"
    ):
        load(saved_blank)
