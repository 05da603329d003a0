"""FVD, KVD, FID, KID: plumbing on tiny networks, minimums, and the refusal to run a program that nobody
vouched for."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vgen.metrics.learned import Clips, LearnedMetrics, measure
from vgen.metrics.learned.clip_scores import images
from vgen.metrics.learned.distances import frechet_of, polynomial_mmd
from vgen.metrics.learned.settings import Minimums, Weights
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.torchscript import load_program, vectors
from vgen.metrics.learned.videomae import from_original, video_features
from vgen.metrics.learned.weights import Located

FEW = Minimums(frechet_clips=2, mmd_clips=2, frechet_frames=2, mmd_frames=2)


class TinyI3d(nn.Module):
    """The interface of StyleGAN-V's program: what it must be told, and 0..255 in."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3)

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if not (rescale and resize and return_features):
            return torch.zeros(1)
        return self.conv(x / 127.5 - 1).relu().mean([2, 3, 4])


class TinyInception(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert x.dtype == torch.uint8
        features = self.conv(x.float() / 127.5 - 1).relu()
        return features.mean([2, 3]) if return_features else features


def program(module, path):
    torch.manual_seed(0)
    with warnings.catch_warnings():  # torch deprecates the format that the published networks have
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module()).save(str(path))
    return Weights(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    return program(TinyI3d, folder / "i3d.pt"), program(TinyInception, folder / "inception.pt")


@pytest.fixture
def settings(programs, toybox):
    return LearnedMetrics(i3d=programs[0], inception=programs[1], clip=Weights(path=toybox), minimums=FEW)


@pytest.fixture(scope="module")
def clips():
    """Two halves of one distribution (smooth moving noise), ten frames of 16 px."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (24, 1, 4, 4, 3)).repeat(4, 2).repeat(4, 3)
    return list((base + rng.integers(-8, 8, (24, 10, 16, 16, 3))).clip(0, 255).astype(np.uint8))


def test_each_distance_is_nought_for_itself_and_grows_with_corruption(settings, clips, noisy):
    real, names = clips[:5], ["fvd", "kvd", "fid", "kid", "clip_mmd"]
    found = [
        measure(names, Clips(videos=noisy(real, sigma), references=real), settings) for sigma in (0, 0.2, 0.5)
    ]
    for name in ("fvd", "fid"):
        assert found[0][name].value == pytest.approx(0, abs=1e-9)
    for name in names:
        values = [result[name].value for result in found]
        assert values == sorted(values), name
        assert values[0] < values[2], name
        assert found[0][name].per_clip is None


def test_fvd_and_kvd_are_their_formulas_on_the_programs_features(settings, programs, clips):
    net = load_program(Located(Path(programs[0].path), ""), "cpu", "i3d", "")
    videos, real = clips[:12], clips[12:]

    def features(given):
        x = torch.from_numpy(np.stack(given)).permute(0, 4, 1, 2, 3).float()
        return net(x, rescale=True, resize=True, return_features=True).detach().numpy()

    found = measure(["fvd", "kvd"], Clips(videos=videos, references=real), settings)
    assert found["fvd"].value == pytest.approx(
        frechet_of(features(videos), features(real), unbiased=False), rel=1e-4
    )
    assert found["kvd"].value == pytest.approx(polynomial_mmd(features(videos), features(real)), rel=1e-3)
    assert found["fvd"].manifest.options == {"references": "12"}


@pytest.mark.parametrize("name", ["fid", "kid", "fvd"])
def test_set_distances_do_not_depend_on_batch_size_or_number_type(settings, clips, name):
    whole = measure([name], Clips(videos=clips[:12], references=clips[12:]), settings)[name].value
    settings.batch_size = 3
    floats = Clips(videos=[c.astype(np.float32) / 255 for c in clips[:12]], references=clips[12:])
    assert measure([name], floats, settings)[name].value == pytest.approx(whole, rel=1e-4)


def test_too_few_clips_are_refused_with_both_counts_and_the_setting(settings, clips):
    settings.minimums = Minimums()
    with pytest.raises(ValueError, match=r"^fvd needs") as refusal:
        measure(["fvd", "kvd", "fid"], Clips(videos=clips[:12], references=clips), settings)
    assert str(refusal.value) == (
        "fvd needs 256 clips a side (learned.minimums.frechet_clips), got 12 clips of videos and 24 clips "
        "of references; "
        "kvd needs 16 clips a side (learned.minimums.mmd_clips), got 12 clips of videos; "
        "fid needs 2048 frames a side (learned.minimums.frechet_frames), got 120 frames of videos and 240 "
        "frames of references; "
        "give more, or leave these metrics out"
    )


def test_frames_of_a_single_clip_are_no_set(settings, clips):
    with pytest.raises(
        ValueError, match="kid needs two clips a side, since frames of one clip are no independent samples"
    ):
        measure(["kid"], Clips(videos=clips[:1], references=clips[1:]), settings)


def test_clip_mmd_is_kids_estimator_with_the_cosine_in_its_kernel(settings, clips):
    """(cos + 1)³ over pairs of frames of different clips."""
    videos, real = clips[:3], clips[3:6]
    tools = Tools(settings, Clips(videos=videos, references=real))
    x, y = images(tools), images(tools, "references")
    within = [
        np.mean([(a @ b.T + 1) ** 3 for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
        for z in (x, y)
    ]
    across = np.mean([(a @ b.T + 1) ** 3 for a in x for b in y])
    assert measure(["clip_mmd"], tools.clips, settings)["clip_mmd"].value == pytest.approx(
        sum(within) - 2 * across, abs=1e-9
    )


def test_too_few_clips_do_not_matter_to_a_metric_that_is_skipped_anyway(clips):
    found = measure(["fvd"], Clips(videos=clips[:2], references=clips[:2]))["fvd"]
    assert found.skipped.startswith("fvd: no weights: set learned.i3d.path")


def test_i3d_needs_ten_frames(settings, clips):
    with pytest.raises(ValueError, match="fvd needs 10 frames a clip, got 9"):
        measure(["fvd"], Clips(videos=[c[:9] for c in clips], references=[c[:9] for c in clips]), settings)


@pytest.mark.parametrize(("slot", "name"), [("i3d", "fvd"), ("inception", "fid")])
def test_a_program_whose_hash_nobody_declared_is_never_loaded(settings, clips, monkeypatch, slot, name):
    """Loading a TorchScript archive runs its code."""
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    declared = getattr(settings, slot)
    setattr(settings, slot, Weights(path=declared.path))
    with pytest.raises(
        ValueError,
        match=f"{slot}.path=.* is a TorchScript program, and loading it runs its code.*has {declared.sha256}",
    ):
        measure([name], Clips(videos=clips, references=clips), settings)
    setattr(settings, slot, Weights(path=declared.path, sha256="0" * 64))
    with pytest.raises(ValueError, match="must have the declared sha256"):
        measure([name], Clips(videos=clips, references=clips), settings)


def test_a_file_that_is_no_program_is_refused(settings, clips, tmp_path):
    torch.save({}, tmp_path / "state.pt")
    sha256 = hashlib.sha256((tmp_path / "state.pt").read_bytes()).hexdigest()
    settings.i3d = Weights(path=str(tmp_path / "state.pt"), sha256=sha256)
    with pytest.raises(
        ValueError, match="must be StyleGAN-V's TorchScript I3D, got a file that is no TorchScript program"
    ):
        measure(["fvd"], Clips(videos=clips, references=clips), settings)


def test_a_network_that_answers_with_maps_is_refused():
    """Published I3D ports do so for pictures larger than 224."""
    with pytest.raises(
        ValueError, match="i3d must give one vector for each of its 2 inputs, got shape 2 400 1 2 2"
    ):
        vectors(torch.zeros(2, 400, 1, 2, 2), "i3d", 2)


def test_inceptions_state_file_without_its_package_is_a_reason(settings, clips, tmp_path, monkeypatch):
    torch.save({}, tmp_path / "state.pth")
    settings.inception = Weights(path=str(tmp_path / "state.pth"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (
        "needs torch-fidelity's network"
        in measure(["fid"], Clips(videos=clips, references=clips), settings)["fid"].skipped
    )


@pytest.fixture(scope="module")
def videomae(tmp_path_factory):
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    torch.manual_seed(0)
    config = VideoMAEConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
        num_frames=4,
        use_mean_pooling=True,
        layer_norm_eps=1e-6,
        initializer_range=0.5,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    model = VideoMAEForVideoClassification(config).eval()
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(tensor)
    folder = tmp_path_factory.mktemp("videomae")
    model.save_pretrained(folder)
    return folder


def original(state):
    """The same tensors under the names of the authors' VisionTransformer, with its fused projection."""
    out = {
        "patch_embed.proj." + kind: state[f"videomae.embeddings.patch_embeddings.projection.{kind}"]
        for kind in ("weight", "bias")
    }
    out |= {f"fc_norm.{kind}": state[f"fc_norm.{kind}"] for kind in ("weight", "bias")}
    out |= {f"head.{kind}": state[f"classifier.{kind}"] for kind in ("weight", "bias")}
    renamed = {"q_bias": "query.bias", "v_bias": "value.bias"}  # transformers writes one and holds the other
    state = {
        next((k.replace(a, b) for a, b in renamed.items() if k.endswith(a)), k): v for k, v in state.items()
    }
    for i in range(2):
        layer, block = f"videomae.encoder.layer.{i}.", f"blocks.{i}."
        qkv = [state[f"{layer}attention.attention.{part}.weight"] for part in ("query", "key", "value")]
        out[block + "attn.qkv.weight"] = torch.cat(qkv)
        for part, name in (("query", "q_bias"), ("value", "v_bias")):
            out[f"{block}attn.{name}"] = state[f"{layer}attention.attention.{part}.bias"]
        pairs = {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "attn.proj": "attention.output.dense",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }
        out |= {
            f"{block}{ours}.{kind}": state[f"{layer}{theirs}.{kind}"]
            for ours, theirs in pairs.items()
            for kind in ("weight", "bias")
        }
    return out


def forward_of_the_paper(state, x, num_heads):
    """VideoMAE's forward pass written from its equations over the authors' names; x 3 f h w."""
    proj = state["patch_embed.proj.weight"]
    tokens = (
        nn.functional.conv3d(x[None], proj, state["patch_embed.proj.bias"], stride=proj.shape[2:])
        .flatten(2)
        .transpose(1, 2)
    )
    num, width = tokens.shape[1:]
    angle = torch.arange(num).double()[:, None] / 10000 ** (2 * (torch.arange(width).double() // 2) / width)
    tokens = tokens + torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float()
    for i in range(2):
        w = {
            key.removeprefix(f"blocks.{i}."): value
            for key, value in state.items()
            if key.startswith(f"blocks.{i}.")
        }
        norm = nn.functional.layer_norm(tokens, (width,), w["norm1.weight"], w["norm1.bias"], 1e-6)
        bias = torch.cat([w["attn.q_bias"], torch.zeros(width), w["attn.v_bias"]])
        qkv = (
            nn.functional.linear(norm, w["attn.qkv.weight"], bias)
            .reshape(1, num, 3, num_heads, -1)
            .permute(2, 0, 3, 1, 4)
        )
        attended = nn.functional.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(1, num, width)
        tokens = tokens + nn.functional.linear(attended, w["attn.proj.weight"], w["attn.proj.bias"])
        norm = nn.functional.layer_norm(tokens, (width,), w["norm2.weight"], w["norm2.bias"], 1e-6)
        hidden = nn.functional.gelu(nn.functional.linear(norm, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
        tokens = tokens + nn.functional.linear(hidden, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    return nn.functional.layer_norm(
        tokens.mean(1), (width,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6
    )


def test_the_authors_videomae_file_gives_the_features_of_its_equations(videomae):
    from safetensors.torch import load_file

    state = original(load_file(videomae / "model.safetensors"))
    model = from_original(state, num_heads=4, image_size_px=16, num_frames=4).eval()
    video = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    want = forward_of_the_paper(state, torch.from_numpy(video).permute(3, 0, 1, 2).float() / 255, 4)
    assert video_features(model, video, "cpu") == pytest.approx(want.numpy(), rel=1e-3, abs=1e-4)


def test_fvd_videomae_from_a_folder(videomae, clips, noisy):
    settings = LearnedMetrics(videomae=Weights(path=str(videomae)), minimums=FEW)
    real, names = [c[:4] for c in clips], ["fvd_videomae", "kvd_videomae"]
    same, spoilt = (
        measure(names, Clips(videos=noisy(real, sigma), references=real), settings) for sigma in (0, 0.5)
    )
    assert same["fvd_videomae"].value == pytest.approx(0, abs=1e-6)
    for name in names:
        assert spoilt[name].value > same[name].value
    assert same["fvd_videomae"].manifest.resize == "squash to 16×16, bilinear, no antialias"


def test_videomae_wants_its_number_of_frames(videomae, clips):
    settings = LearnedMetrics(videomae=Weights(path=str(videomae)), minimums=FEW)
    with pytest.raises(ValueError, match="VideoMAE reads clips of 4 frames, got 10"):
        measure(["fvd_videomae"], Clips(videos=clips, references=clips), settings)


def test_another_state_file_is_no_videomae(clips, tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    settings = LearnedMetrics(videomae=Weights(path=str(tmp_path / "x.pth")), minimums=FEW)
    with pytest.raises(ValueError, match="must hold the authors' VisionTransformer"):
        measure(["fvd_videomae"], Clips(videos=clips, references=clips), settings)
