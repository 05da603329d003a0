"""vgen generate: clips on disk, reproducible, each with the card that made it."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from vgen.app import folders, generate
from vgen.app.config import _act
from vgen.app.edit import EditRun
from vgen.app.generate import Dtype, GenerateRun, generate_files
from vgen.app.loading import UNTRAINED, open_checkpoint, refuse_undrawable
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import load, save
from vgen.diffusion.frames import Sliding
from vgen.diffusion.solvers import Solver
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.methods import assemble
from vgen.methods._sampling import Prompt, Sampling, SamplingOverrides
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.fatezero import FateZero
from vgen.methods.image.clip_pair import ClipPair

SMALL = Sampling(num_frames=3, num_steps=2, guidance=3.0, width_px=32, height_px=32)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "model"
    save(blank(Blank.TOYBOX, seed=0).freeze(), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    """A motion module that moves things at random."""
    checkpoint = open_checkpoint(UNTRAINED, str(backbone))
    torch.manual_seed(0)
    tensors = {
        f"unet.{n}": torch.randn_like(p) * 0.1
        for n, p in checkpoint.unet.named_parameters()
        if n.startswith("inserted.")
    }
    path = tmp_path_factory.mktemp("run") / "adapter.safetensors"
    save_adapter(path, tensors, Card.of("animatediff", AnimateDiff(), checkpoint.model, {}, {"steps": 0}))
    return path


def run(backbone: Path, adapter: str | Path, out: Path, **knobs) -> GenerateRun:
    settings = {"prompt": "a red circle moves up", "sampling": SMALL, "num_clips": 2, "seed": 5} | knobs
    return GenerateRun(adapter=str(adapter), backbone=str(backbone), out=str(out), **settings)


def test_files_carry_their_card_and_the_same_seed_gives_the_same_bytes(
    backbone: Path, adapter: Path, tmp_path: Path
) -> None:
    one, two = (
        generate_files(run(backbone, adapter, tmp_path / "a"), {}),
        generate_files(run(backbone, adapter, tmp_path / "b"), {}),
    )
    names = sorted(p.name for p in one.iterdir())
    assert names == [f"00{i}-a-red-circle-moves-up.{e}" for i in range(2) for e in ("gif", "mp4", "png")]
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)
    with av.open(str(one / names[1])) as file:
        card = json.loads(file.metadata["comment"])
        assert sum(1 for _ in file.decode(video=0)) == 3
    assert (card["prompt"], card["seed"], card["recipe"]["name"]) == (
        "a red circle moves up",
        5,
        "animatediff",
    )
    with Image.open(one / names[2]) as grid, Image.open(one / names[0]) as gif:
        assert json.loads(grid.text["vgen"]) == card
        assert gif.n_frames == 3
        assert json.loads(gif.info["comment"]) == card


@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
def test_a_card_says_what_drew_the_clip(backbone: Path, adapter: Path, tmp_path: Path, dtype: Dtype) -> None:
    """The image model's fingerprint is that of its weights as they are kept, whatever type draws."""
    small = Sampling(num_frames=1, num_steps=1, guidance=1.0, width_px=16, height_px=16)
    cards = []
    for i, name in enumerate((str(adapter), UNTRAINED)):
        wish = run(backbone, name, tmp_path / str(i), sampling=small, num_clips=1, dtype=dtype, batch_size=3)
        with Image.open(next(generate_files(wish, {}).glob("*.png"))) as grid:
            cards.append(json.loads(grid.text["vgen"]))
    for card in cards:
        assert (card["dtype"], card["batch_size"]) == (dtype.value, 3)
        assert card["image_model"] == {
            "source": str(backbone),
            "fingerprint": load_adapter(adapter)[1].backbone,
        }
    digest = hashlib.sha256(adapter.read_bytes()).hexdigest()
    assert [card["adapter_sha256"] for card in cards] == [digest[:16], None]


def test_words_that_are_left_out_are_counted(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, not one a clip; what guidance 1 does not read is not told of."""
    small = Sampling(num_frames=1, num_steps=1, guidance=1.0, width_px=16, height_px=16)
    limit = open_checkpoint(UNTRAINED, str(backbone)).model.tokenizer.model_max_length - 2
    long, negative = "red " * (limit + 3), "blue " * (limit + 9)
    for guidance, said in (
        (1.0, "'red red red red red red red red red red ...' the last 3 are cut off;"),
        (2.0, "'blue blue"),
    ):
        small.guidance = guidance
        generate_files(
            run(
                backbone, UNTRAINED, tmp_path / str(guidance), sampling=small, prompt=long, negative=negative
            ),
            {},
        )
        lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
        assert len(lines) == 1
        assert f"reads {limit} tokens, of {said}" in lines[0]
    assert "the last 9 are cut off (and words of 1 more)" in lines[0]
    generate_files(run(backbone, UNTRAINED, tmp_path / "fits", sampling=small, prompt="red " * limit), {})
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("solver", list(Solver))
def test_batch_size_does_not_matter(backbone: Path, adapter: Path, solver: Solver) -> None:
    checkpoint = open_checkpoint(str(adapter), str(backbone))
    sampling = Sampling(num_frames=3, num_steps=3, guidance=3.0, width_px=32, height_px=32, solver=solver)
    prompts = [Prompt("a red circle", seed=1), Prompt("a blue star", seed=2)]
    both = checkpoint.sample(prompts, sampling)
    torch.testing.assert_close(
        torch.cat([checkpoint.sample([p], sampling) for p in prompts]), both, atol=2e-3, rtol=1e-2
    )
    assert not torch.allclose(both[0], both[1], atol=0.05)


def test_guidance_one_is_the_conditional_model(backbone: Path, adapter: Path) -> None:
    checkpoint = open_checkpoint(str(adapter), str(backbone))
    alone = Sampling(num_frames=2, num_steps=2, guidance=1.0, width_px=32, height_px=32)
    nearly = Sampling(num_frames=2, num_steps=2, guidance=1.0 + 1e-6, width_px=32, height_px=32)
    prompt = [Prompt("a red circle", seed=1, negative="blue")]
    torch.testing.assert_close(
        checkpoint.sample(prompt, alone), checkpoint.sample(prompt, nearly), atol=1e-3, rtol=1e-3
    )


def test_guidance_and_what_it_leads_away_from_change_the_clip(backbone: Path, adapter: Path) -> None:
    """Above 1 the negative prompt is half of the difference; at 1 nobody asks for it."""
    checkpoint = open_checkpoint(str(adapter), str(backbone))

    def drawn(guidance: float, negative: str = "") -> torch.Tensor:
        sampling = Sampling(num_frames=2, num_steps=2, guidance=guidance, width_px=32, height_px=32)
        return checkpoint.sample([Prompt("a red circle", seed=1, negative=negative)], sampling)

    assert torch.equal(drawn(1.0), drawn(1.0, "a blue star"))
    apart = [(drawn(6.0) - other).abs().max() for other in (drawn(1.0), drawn(6.0, "a blue star"))]
    assert min(apart) > 0.02
    torch.testing.assert_close(drawn(6.0, "a red circle"), drawn(1.0), atol=2e-3, rtol=1e-3)


def test_longer_than_trained_needs_windows(backbone: Path, adapter: Path, tmp_path: Path) -> None:
    long = Sampling(num_frames=40, num_steps=1, width_px=16, height_px=16)
    with pytest.raises(
        ValueError, match=r"num_frames=40 frames at once.*32 position rows.*sampling.window.num_frames=32"
    ):
        generate_files(run(backbone, adapter, tmp_path / "x", sampling=long, num_clips=1), {})
    long.window = Sliding(num_frames=16, overlap=4)
    out = generate_files(run(backbone, adapter, tmp_path / "y", sampling=long, num_clips=1), {})
    with av.open(str(next(out.glob("*.mp4")))) as file:
        assert sum(1 for _ in file.decode(video=0)) == 40


def test_a_window_that_no_clip_fills_asks_for_no_rows(backbone: Path, adapter: Path, tmp_path: Path) -> None:
    short = Sampling(num_frames=2, num_steps=1, width_px=16, height_px=16, window=Sliding(num_frames=40))
    assert (
        len(
            list(
                generate_files(run(backbone, adapter, tmp_path / "x", sampling=short, num_clips=1), {}).glob(
                    "*.mp4"
                )
            )
        )
        == 1
    )


def test_a_window_that_means_nothing_is_refused_by_its_whole_key() -> None:
    wrong = OmegaConf.create({"sampling": {"window": {"num_frames": 8, "overlap": 9}}})
    with pytest.raises(
        ValueError,
        match=r"^sampling.window.overlap must lie in 0..7 .*, got 9; give sampling.window.overlap=4$",
    ):
        _act(OmegaConf.merge(OmegaConf.structured(GenerateRun), wrong), lambda *_: None)
    negative = OmegaConf.create({"window": {"num_frames": -3}})
    with pytest.raises(ValueError, match=r"^window.num_frames must not be negative"):
        _act(OmegaConf.merge(OmegaConf.structured(EditRun(method=FateZero())), negative), lambda *_: None)


@pytest.mark.parametrize("fps", [0.0, -1.0, 0.0001, 241.0, float("nan"), float("inf")])
def test_a_rate_that_no_file_can_say_is_refused_at_once(fps: float) -> None:
    with pytest.raises(ValueError, match=r"fps must lie in 0.01..240"):
        GenerateRun(prompt="x", fps=fps)


@pytest.mark.parametrize("least_px", [-5, 4097, 100_000])
def test_a_size_that_no_memory_holds_is_refused_at_once(least_px: int) -> None:
    for made in (
        lambda: GenerateRun(prompt="x", least_px=least_px),
        lambda: EditRun(method=FateZero(), least_px=least_px),
    ):
        with pytest.raises(ValueError, match=rf"least_px must lie in 0..4096, got {least_px}; 256 is usual"):
            made()
    assert [GenerateRun(prompt="x", least_px=px).least_px for px in (0, 4096)] == [0, 4096]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below /proc, where making one ends in a FileNotFoundError."""

    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(folders.Path, "mkdir", nowhere)
    with pytest.raises(
        ValueError, match=r"out=.*x can't be made \(No such file or directory\); choose another place"
    ):
        generate_files(GenerateRun(prompt="x", out=str(tmp_path / "x")), {})


@pytest.mark.parametrize("fps", [0.01, 12.5, 240.0])
def test_the_rate_is_in_the_file(backbone: Path, adapter: Path, tmp_path: Path, fps: float) -> None:
    small = Sampling(num_frames=2, num_steps=1, guidance=1.0, width_px=16, height_px=16)
    out = generate_files(run(backbone, adapter, tmp_path / "x", sampling=small, num_clips=1, fps=fps), {})
    with av.open(str(next(out.glob("*.mp4")))) as file:
        assert float(file.streams.video[0].average_rate) == pytest.approx(fps)


def test_lines_of_a_file_are_the_prompts_in_order(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red circle\n\n  ein gr\u00fcner Stern \r\na\u2028blue square".encode())
    found = GenerateRun(
        prompt="first", prompt_file=str(path), num_clips=2, seed=3, negative="blurry"
    ).prompts()
    texts = ["first", "a red circle", "ein gr\u00fcner Stern", "a\u2028blue square"]
    assert [prompt.text for prompt in found] == [text for text in texts for _ in range(2)]
    assert [prompt.seed for prompt in found] == list(range(3, 11))
    assert {prompt.negative for prompt in found} == {"blurry"}
    path.write_bytes("ein gr\u00fcner Stern".encode("latin-1"))
    with pytest.raises(
        ValueError,
        match=r"prompt_file=.*prompts.txt must be text in UTF-8 \(invalid .* at byte 6\); save it as UTF-8",
    ):
        GenerateRun(prompt_file=str(path)).prompts()


def test_prompts_of_a_file_reach_the_clips(backbone: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    small = Sampling(num_frames=2, num_steps=1, guidance=1.0, width_px=16, height_px=16)
    wish = run(
        backbone,
        adapter,
        tmp_path / "x",
        prompt="",
        prompt_file=str(tmp_path / "prompts.txt"),
        sampling=small,
        num_clips=1,
    )
    assert sorted(p.name for p in generate_files(wish, {}).glob("*.mp4")) == [
        "000-a-red-circle.mp4",
        "001-a-blue-square.mp4",
    ]


def test_sampling_does_not_touch_a_filled_folder(backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty; choose another folder"):
        generate_files(run(backbone, UNTRAINED, tmp_path), {})
    with pytest.raises(ValueError, match=r"mine.txt is a file; choose another folder"):
        generate_files(run(backbone, UNTRAINED, tmp_path / "mine.txt"), {})
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("there", [False, True])
def test_two_runs_never_draw_into_one_folder(
    backbone: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """The second one starts while the first is loading, long before there is a clip to see."""
    if there:
        (tmp_path / "out").mkdir()
    opened = generate.open_checkpoint

    def meanwhile(*names, **settings):
        monkeypatch.setattr(generate, "open_checkpoint", opened)
        with pytest.raises(
            ValueError, match=r"another run draws into out=.*; choose another folder, or remove .*\.drawing"
        ):
            generate_files(run(backbone, adapter, tmp_path / "out"), {})
        return opened(*names, **settings)

    monkeypatch.setattr(generate, "open_checkpoint", meanwhile)
    out = generate_files(run(backbone, adapter, tmp_path / "out", num_clips=1), {})
    assert sorted(p.suffix for p in out.iterdir()) == [".gif", ".mp4", ".png"], "the claim is gone"


def test_folders_without_a_name_differ_and_a_refused_run_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders.time, "strftime", lambda form: "20260101-000000")
    with folders.claimed("") as one, folders.claimed("") as two, folders.claimed("") as three:
        assert [str(out) for out in (one, two, three)] == [
            f"outputs/20260101-000000{suffix}" for suffix in ("", "-2", "-3")
        ]
        (two / "clip.mp4").touch()
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [two.name]


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"prompt": ""}, "there is nothing to draw"),
        ({"prompt": "", "prompt_file": "nowhere.txt"}, "prompt_file=nowhere.txt is no file"),
        ({"adapter": "runs/none"}, "adapter=runs/none is no file"),
        ({"sampling": Sampling(width_px=50)}, "width_px must be a multiple of 16"),
    ],
)
def test_mistakes_speak(backbone: Path, tmp_path: Path, knobs: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate_files(run(backbone, knobs.pop("adapter", UNTRAINED), tmp_path / "out", **knobs), {})
    assert not (tmp_path / "out").exists(), "the name stays free for the next try"


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"guidance": float("nan")}, "guidance must be a number that is not negative, got nan"),
        ({"guidance": float("inf")}, "guidance must be a number that is not negative, got inf"),
        (
            {"width_px": -16},
            "width_px and height_px must not be negative, got -16 and 0; 0 is the image model's own size",
        ),
    ],
)
def test_sampling_that_means_nothing_is_refused(knobs: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Sampling(**knobs)


def test_a_motion_module_draws_on_another_image_model_of_its_family(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One module, many personalised models; a remark says that it is another one."""
    save(blank(Blank.TOYBOX, seed=9).freeze(), tmp_path / "other", torch.float32)
    checkpoint = open_checkpoint(str(adapter), str(tmp_path / "other"))
    assert checkpoint.sample([Prompt("a red circle", seed=1)], SMALL).isfinite().all()
    assert re.search(
        r"was trained on image model .* \(fingerprint [0-9a-f]{16}\); it is used on another one", caplog.text
    )


def test_weights_of_another_image_model_are_refused(adapter: Path, tmp_path: Path) -> None:
    save(blank(Blank.TOYBOX, seed=9).freeze(), tmp_path / "other", torch.float32)
    tensors, card = load_adapter(adapter)
    mixed = tensors | {"unet.image_unet.conv_in.bias": torch.zeros(1)}
    save_adapter(tmp_path / "mixed.safetensors", mixed, card)
    with pytest.raises(ValueError, match=r"weights of which it holds, .* is [0-9a-f]{16}; give the backbone"):
        open_checkpoint(str(tmp_path / "mixed.safetensors"), str(tmp_path / "other"))


def test_an_image_model_of_other_shapes_is_refused(adapter: Path, tmp_path: Path) -> None:
    save(blank(Blank.SD15_NARROW, seed=0).freeze(), tmp_path / "wide", torch.float32)
    with pytest.raises(ValueError, match="was trained on an image model of other shapes"):
        open_checkpoint(str(adapter), str(tmp_path / "wide"))


def test_the_fingerprint_survives_half_precision(
    backbone: Path, adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    save(load(backbone), tmp_path / "half", torch.float16)
    assert open_checkpoint(str(adapter), str(tmp_path / "half")).card is not None
    assert "another one" not in caplog.text


def test_an_adapter_draws_at_the_frames_and_the_size_of_its_training(
    backbone: Path, adapter: Path, tmp_path: Path
) -> None:
    tensors, card = load_adapter(adapter)
    trained = replace(card, summary=card.summary | {"num_frames": 5, "width_px": 48, "height_px": 32})
    save_adapter(tmp_path / "small.safetensors", tensors, trained)
    checkpoint = open_checkpoint(str(tmp_path / "small.safetensors"), str(backbone))
    found = checkpoint.sampling(SamplingOverrides(num_frames=3))
    assert (found.num_frames, found.width_px, found.height_px) == (3, 48, 32)
    assert checkpoint.sampling(SamplingOverrides()).num_frames == 5
    assert open_checkpoint(str(adapter), str(backbone)).sampling(SamplingOverrides()).width_px == 0


def test_a_cut_adapter_and_a_foreign_file_are_refused(backbone: Path, adapter: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(adapter.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        open_checkpoint(str(torn), str(backbone))
    tensors, card = load_adapter(adapter)
    tensors.pop(next(iter(tensors)))
    save_adapter(tmp_path / "short.safetensors", tensors, card)
    with pytest.raises(ValueError, match="lacks 1 tensors"):
        open_checkpoint(str(tmp_path / "short.safetensors"), str(backbone))


def test_what_learns_no_denoising_draws_nothing(backbone: Path) -> None:
    with pytest.raises(ValueError, match="ClipPair learns Agreement, not Denoising, so no clip can be drawn"):
        refuse_undrawable(open_checkpoint(UNTRAINED, str(backbone), untrained=ClipPair()))


def test_an_untrained_module_leaves_every_frame_to_the_image_model(backbone: Path) -> None:
    checkpoint = open_checkpoint(UNTRAINED, str(backbone))
    assert (
        len(checkpoint.unet.inserted) == len(assemble(AnimateDiff(), blank(Blank.TOYBOX)).unet.inserted) == 9
    )
    clip = checkpoint.sample([Prompt("a red circle", seed=1)], SMALL)[0].numpy()
    assert not np.allclose(clip[0], clip[1], atol=0.05), (
        "without motion modules every frame has noise of its own"
    )
