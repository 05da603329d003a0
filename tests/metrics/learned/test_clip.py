"""CLIP, PickScore and DINO metrics: the maths on known vectors, the plumbing on tiny random models, the
meaning on the toybox's CLIP."""

import json
import shutil
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from vgen.metrics.learned import Clips, LearnedMetrics, measure
from vgen.metrics.learned.clip_model import CLIP, load_clip
from vgen.metrics.learned.clip_scores import _direction
from vgen.metrics.learned.settings import Weights
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import digest, locate
from vgen.toybox.edits import Edit, edit_pair
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample

FRAMES = ["clip_frame_all_pairs", "clip_frame_consecutive"]
TEXTS = ["clip_text", "clip_frame_accuracy", "clip_direction"]


@pytest.fixture(params=["toybox", "tiny_clip"])
def settings(request):
    """Both kinds of folder that clip.path takes."""
    return LearnedMetrics(clip=Weights(path=str(request.getfixturevalue(request.param))))


@pytest.fixture
def on_toybox(toybox):
    return LearnedMetrics(clip=Weights(path=toybox))


@pytest.fixture(scope="module")
def edits():
    """Recolouring: source video, its words, the exact edited video, its words."""
    rng = rng_of(11)
    pairs = [edit_pair(sample(rng, Family.CORE, Mix()), Edit.RECOLOUR, i) for i in range(6)]
    show = [(render(p.scene).video[:4], render(p.edited).video[:4]) for p in pairs]
    return [a for a, _ in show], [b for _, b in show], [p.source for p in pairs], [p.target for p in pairs]


def test_embeddings_are_those_of_transformers(tiny_clip, videos, prompts):
    from transformers import CLIPModel, CLIPProcessor

    settings = LearnedMetrics(clip=Weights(path=str(tiny_clip)))
    value = measure(["clip_text"], Clips(videos=videos[:1], prompts=prompts[:1]), settings)["clip_text"].value
    pair = load_clip(locate(CLIP, settings.clip), "cpu")
    model = CLIPModel.from_pretrained(tiny_clip)
    processor = CLIPProcessor(image_processor=pair.processor, tokenizer=pair.tokenizer)
    inputs = processor(
        text=prompts[:1], images=list(videos[0]), return_tensors="pt", truncation=True, max_length=16
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    assert value == pytest.approx(100 * float(logits.mean()), rel=1e-5)


def test_all_pairs_and_neighbours_are_what_they_say(settings, videos):
    clips = Clips(videos=videos)
    results = measure(FRAMES, clips, settings)
    pair = load_clip(locate(CLIP, settings.clip), "cpu")
    x = [pair.images(video, 32) for video in videos]
    every = [np.mean([a @ b for a, b in combinations(clip, 2)]) for clip in x]
    assert results["clip_frame_all_pairs"].per_clip == pytest.approx(every)
    neighbours = [np.mean([a @ b for a, b in pairwise(clip)]) for clip in x]
    assert results["clip_frame_consecutive"].per_clip == pytest.approx(neighbours)
    assert np.allclose([np.linalg.norm(c, axis=-1) for c in x], 1)


def test_a_frozen_clip_is_perfectly_consistent_and_noise_is_less_so(settings, videos, noisy):
    """Which is why consistency never stands alone: see the guide."""
    frozen = [np.repeat(video[:1], 4, 0) for video in videos]
    found = [measure(FRAMES, Clips(videos=noisy(frozen, sigma)), settings) for sigma in (0, 0.3)]
    for name in FRAMES:
        assert found[0][name].value == pytest.approx(1)
        assert found[1][name].value < found[0][name].value


def test_consistency_needs_two_frames(on_toybox, videos):
    with pytest.raises(
        ValueError,
        match="clip_frame_all_pairs needs 2 frames a clip, got 1; clip_frame_consecutive needs 2 frames",
    ):
        measure(FRAMES, Clips(videos=[v[:1] for v in videos]), on_toybox)


def test_the_toybox_clip_prefers_the_right_caption(on_toybox):
    rng = rng_of(3)
    scenes = [sample(rng, Family.CORE, Mix()) for _ in range(16)]
    from vgen.toybox.captions import caption

    clips = [render(scene).video[:1] for scene in scenes]
    words = [caption(scene, rng).text for scene in scenes]
    right = measure(["clip_text"], Clips(videos=clips, prompts=words), on_toybox)["clip_text"].value
    wrong = measure(["clip_text"], Clips(videos=clips, prompts=words[1:] + words[:1]), on_toybox)[
        "clip_text"
    ].value
    assert right > wrong + 10


def test_an_edit_moves_as_its_words_do_and_a_copy_does_not(on_toybox, edits):
    source, edited, before, after = edits
    done = measure(
        TEXTS, Clips(videos=edited, sources=source, prompts=after, source_prompts=before), on_toybox
    )
    copied = measure(
        TEXTS, Clips(videos=source, sources=source, prompts=after, source_prompts=before), on_toybox
    )
    assert copied["clip_direction"].value == 0
    assert done["clip_direction"].value > 0.2
    assert done["clip_frame_accuracy"].value > copied["clip_frame_accuracy"].value
    assert done["clip_text"].value > copied["clip_text"].value


def test_direction_of_known_vectors():
    wanted = np.array([1.0, 0, 0])
    assert _direction(np.array([[2.0, 0, 0], [0, 3, 0], [-1, 0, 0], [1, 1, 0]]), wanted) == pytest.approx(
        np.sqrt(0.5) / 4
    )
    assert _direction(np.zeros((2, 3)), wanted) == 0
    assert _direction(np.ones((2, 3)), np.zeros(3)) is None, "the words ask for no change"


def test_metrics_without_their_inputs_are_skipped(on_toybox, videos, prompts):
    results = measure(TEXTS, Clips(videos=videos, prompts=prompts), on_toybox)
    assert results["clip_text"].value is not None
    assert (
        results["clip_frame_accuracy"].skipped
        == "clip_frame_accuracy compares with source_prompts, which were not given"
    )
    assert "sources and source_prompts" in results["clip_direction"].skipped


def test_a_long_prompt_is_cut_before_its_end_mark_and_the_result_says_so(tiny_clip, videos):
    settings = LearnedMetrics(clip=Weights(path=str(tiny_clip)))
    pair = load_clip(locate(CLIP, settings.clip), "cpu")
    long, longer = "a red circle moves left " * 9, "a red circle moves left " * 9 + "on a blue background"
    assert (
        pair.tokenizer([longer], truncation=True, max_length=16).input_ids[0][-1]
        == pair.tokenizer.eos_token_id
    )
    assert np.array_equal(pair.texts([long]), pair.texts([longer])), "what is cut has no say"
    result = measure(
        ["clip_text"], Clips(videos=videos, prompts=[long, "a red circle", longer, "a red circle"]), settings
    )["clip_text"]
    assert result.notes == ["2 of 4 prompts were longer than 16 tokens and were cut"]


def test_frames_reach_the_network_once_scaled_and_in_rgb(tiny_clip, videos):
    pair = load_clip(locate(CLIP, Weights(path=str(tiny_clip))), "cpu")
    seen = []
    object.__setattr__(pair, "image", lambda x: seen.append(x) or torch.ones(len(x), 4))
    grey = np.full((1, 32, 32, 3), (255, 128, 0), np.uint8)
    pair.images(grey, 8)
    mean, std = np.array(pair.processor.image_mean), np.array(pair.processor.image_std)
    assert seen[0][0, :, 5, 5].numpy() == pytest.approx(
        (np.array([255, 128, 0]) / 255 - mean) / std, rel=1e-5
    )


@pytest.mark.parametrize("name", [*FRAMES, "clip_text"])
def test_numbers_do_not_depend_on_batch_size_or_number_type(settings, videos, prompts, name):
    whole = measure([name], Clips(videos=videos, prompts=prompts), settings)[name]
    settings.batch_size = 1
    floats = Clips(videos=[v.astype(np.float32) / 255 for v in videos], prompts=prompts)
    assert measure([name], floats, settings)[name].per_clip == pytest.approx(whole.per_clip, rel=1e-5)


def test_six_metrics_run_the_network_once(on_toybox, videos, prompts, monkeypatch):
    calls = []
    features = Tools.features

    def counted(self, name, field, encode):
        return features(self, name, field, lambda x: calls.append(field) or encode(x))

    monkeypatch.setattr(Tools, "features", counted)
    measure(
        [*FRAMES, *TEXTS],
        Clips(videos=videos, sources=videos, prompts=prompts, source_prompts=prompts),
        on_toybox,
    )
    assert calls == ["videos"] * 4 + ["sources"] * 4


def test_the_manifest_holds_the_resize_and_the_hash_of_the_pair_alone(on_toybox, toybox, videos, tmp_path):
    made = measure(["clip_frame_consecutive"], Clips(videos=videos), on_toybox)[
        "clip_frame_consecutive"
    ].manifest
    assert made.resize == "PIL bilinear, antialias, shortest_edge 64; centre crop 64×64"
    copy = tmp_path / "other"
    for part in ("text_encoder", "tokenizer", "image_encoder", "feature_extractor"):
        shutil.copytree(f"{toybox}/{part}", copy / part)
    shutil.copy(f"{toybox}/model_index.json", copy)
    assert digest(copy) == made.weights["clip"], "another UNet beside it is the same CLIP"
    (copy / "tokenizer" / "tokenizer_config.json").write_text("{}")
    assert digest(copy) != made.weights["clip"]


def test_a_folder_without_a_clip_pair_is_refused(toybox, tmp_path, videos):
    for folder, files, says in (
        (
            "sd",
            {"model_index.json": {}},
            "is an image model without text_encoder and tokenizer and image_encoder and feature_extractor",
        ),
        ("vit", {"config.json": {"model_type": "vit"}}, "its config.json says vit"),
        ("none", {}, "its config.json says nothing"),
    ):
        (tmp_path / folder).mkdir()
        for name, content in files.items():
            (tmp_path / folder / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=says):
            measure(FRAMES, Clips(videos=videos), LearnedMetrics(clip=Weights(path=str(tmp_path / folder))))


def test_weights_that_lack_a_tensor_are_refused_rather_than_drawn_at_random(tiny_clip, tmp_path, videos):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_clip, tmp_path / "broken")
    state = load_file(tiny_clip / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"all weights of a CLIPModel, 1 are missing, visual_projection.weight among them"
    ):
        measure(FRAMES, Clips(videos=videos), LearnedMetrics(clip=Weights(path=str(tmp_path / "broken"))))


def test_a_cut_weights_file_is_one_sentence(tiny_clip, tmp_path, videos):
    shutil.copytree(tiny_clip, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(
        (tiny_clip / "model.safetensors").read_bytes()[:5000]
    )
    with pytest.raises(ValueError, match="must hold a CLIPModel of transformers, got: "):
        measure(FRAMES, Clips(videos=videos), LearnedMetrics(clip=Weights(path=str(tmp_path / "cut"))))


def test_a_folder_without_its_tokenizer_is_refused(tiny_clip, tmp_path, videos):
    shutil.copytree(
        tiny_clip, tmp_path / "bare", ignore=shutil.ignore_patterns("token*", "vocab*", "merges*")
    )
    with pytest.raises(ValueError, match=r"must hold the tokenizer \(tokenizer.json, or vocab.json"):
        measure(FRAMES, Clips(videos=videos), LearnedMetrics(clip=Weights(path=str(tmp_path / "bare"))))


def test_pick_score_is_the_trained_scale_times_the_cosine(tiny_clip, videos, prompts):
    settings = LearnedMetrics(pick=Weights(path=str(tiny_clip)), clip=Weights(path=str(tiny_clip)))
    found = measure(["pick_score", "clip_text"], Clips(videos=videos, prompts=prompts), settings)
    from transformers import CLIPModel

    scale = float(CLIPModel.from_pretrained(tiny_clip).logit_scale.detach().exp())
    assert found["pick_score"].per_clip == pytest.approx(
        [scale * v / 100 for v in found["clip_text"].per_clip], rel=1e-6
    )


def test_pick_score_refuses_a_pair_without_scale(toybox, videos, prompts):
    with pytest.raises(ValueError, match="must be a CLIPModel with its trained scale"):
        measure(
            ["pick_score"], Clips(videos=videos, prompts=prompts), LearnedMetrics(pick=Weights(path=toybox))
        )


def test_identity_is_one_for_the_same_picture_and_less_for_others(toybox, tiny_dino, videos):
    settings = LearnedMetrics(clip=Weights(path=toybox), dino=Weights(path=str(tiny_dino)))
    stills = [np.repeat(video[:1], 3, 0) for video in videos]
    names = ["clip_identity", "dino_identity"]
    own = measure(names, Clips(videos=stills, subjects=[v[:1] for v in stills]), settings)
    other = measure(
        names,
        Clips(
            videos=stills, subjects=[np.concatenate([v[:1], 255 - v[:1]]) for v in stills[1:] + stills[:1]]
        ),
        settings,
    )
    for name in names:
        assert own[name].value == pytest.approx(1)
        assert other[name].value < own[name].value
    assert own["dino_identity"].manifest.resize == "PIL bilinear, antialias, height 32, width 32"


def test_dino_is_the_class_token_of_transformers(tiny_dino, videos):
    from transformers import ViTImageProcessorPil, ViTModel

    model = ViTModel.from_pretrained(tiny_dino, add_pooling_layer=False)
    inputs = ViTImageProcessorPil.from_pretrained(tiny_dino)(
        images=[videos[0][0], videos[1][0]], return_tensors="pt"
    )
    with torch.no_grad():
        a, b = torch.nn.functional.normalize(model(**inputs).last_hidden_state[:, 0], dim=-1)
    settings = LearnedMetrics(dino=Weights(path=str(tiny_dino)))
    value = measure(["dino_identity"], Clips(videos=[videos[0][:1]], subjects=[videos[1][:1]]), settings)[
        "dino_identity"
    ].value
    assert value == pytest.approx(float(a @ b), rel=1e-5)


def test_dinov2_is_taken_too(tmp_path, videos):
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, mlp_ratio=2, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=28).save_pretrained(tmp_path)
    stills = [v[:1] for v in videos]
    result = measure(
        ["dino_identity"],
        Clips(videos=stills, subjects=stills),
        LearnedMetrics(dino=Weights(path=str(tmp_path))),
    )
    assert result["dino_identity"].value == pytest.approx(1)


def test_dino_refuses_another_model(tiny_clip, videos):
    with pytest.raises(
        ValueError, match=r"must be a DINO \(vit\) or DINOv2 \(dinov2\) folder, config.json says clip"
    ):
        measure(
            ["dino_identity"],
            Clips(videos=videos, subjects=videos),
            LearnedMetrics(dino=Weights(path=str(tiny_clip))),
        )
