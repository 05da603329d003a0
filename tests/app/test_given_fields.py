"""Fields on the command line: what is drawn hears them; what can't be one is refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vgen.app.generate import GenerateRun, generate_files
from vgen.app.given_fields import Fit, GivenField, given_fields
from vgen.app.judging.sources import sampler_of
from vgen.app.loading import load_backbone, open_checkpoint
from vgen.app.spellings import FIELD_NAMES, respelt
from vgen.app.stacks import StackEntry
from vgen.backbones.canny import canny
from vgen.data.clip_files import write_mp4
from vgen.data.decode import Cut
from vgen.data.fields import FIELDS
from vgen.data.given import find_field, read_field, read_frames
from vgen.data.pose import of_people
from vgen.diffusion.step_window import StepWindow
from vgen.formats.adapter import Card, save_adapter
from vgen.methods import assemble
from vgen.methods._sampling import Loudness, Sampling
from vgen.methods.control_net import ControlNets, Shown
from vgen.methods.dreampose import DreamPose
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.suite import Kind, Suite, tasks

BLANK, SIDE, FRAMES = "blank:toybox:0", 32, 2
CUT = Cut(fps=8, num_frames=FRAMES, size_px=SIDE)
SMALL = Sampling(num_frames=FRAMES, num_steps=2, guidance=1.0, width_px=SIDE, height_px=SIDE)


def net(folder: Path, shown: Shown) -> StackEntry:
    """A ControlNet that says something."""
    model, recipe = load_backbone(BLANK), ControlNets(condition=shown)
    modules = assemble(recipe, model).modules[shown.value]
    draw = torch.Generator().manual_seed(0)
    named = {f"{shown.value}.{n}": p.detach() for n, p in modules.named_parameters()}
    moved = {n: p + 0.1 * torch.randn(p.shape, generator=draw) for n, p in named.items()}
    path = folder / f"{shown.value}.safetensors"
    save_adapter(path, moved, Card.of("control_net", recipe, model, {}, {}))
    return StackEntry(name=shown.value, file=str(path))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StackEntry]:
    folder = tmp_path_factory.mktemp("nets")
    return {shown.value: net(folder, shown) for shown in (Shown.EDGES, Shown.POSE)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    video = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    video[:, 8:24, 8:24] = 255
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", video)


def drawn(out: Path, stack: list[StackEntry], fields: list[GivenField], **knobs: object) -> np.ndarray:
    settings = {"prompt": "a red circle", "sampling": SMALL, "least_px": 0, "backbone": BLANK, **knobs}
    folder = generate_files(GenerateRun(stack=stack, fields=fields, out=str(out), **settings), {})
    return np.asarray(Image.open(next(folder.glob("*.png"))))


def test_what_is_drawn_follows_every_net_as_loud_as_it_is_asked(
    nets: dict[str, StackEntry], clip: Path, tmp_path: Path
) -> None:
    pose = tmp_path / "pose.json"
    pose.write_text(json.dumps([[[[0.1 + 0.04 * j, 0.5, 1.0] for j in range(17)]]] * FRAMES))
    both = [nets["edges"], nets["pose"]]
    edges, body = GivenField(name="edges", file=str(clip)), GivenField(name="pose", file=str(pose))
    found = GivenField(name="edges", file=str(clip), found=True)

    def with_loudness(name: str, *loud: Loudness) -> np.ndarray:
        sampling = replace(SMALL, conditions=list(loud))
        return drawn(tmp_path / name, both, [edges, body], sampling=sampling)

    plain = drawn(tmp_path / "a", both, [edges, body])
    assert not np.array_equal(plain, drawn(tmp_path / "b", both, [found, body]))
    alone = drawn(tmp_path / "c", [nets["edges"]], [edges])
    no_pose = with_loudness("d", Loudness(name="pose", scale=0.0))
    assert np.array_equal(no_pose, alone)
    never = StepWindow(start=1.0, end=1.0)
    assert np.array_equal(with_loudness("e", Loudness(name="pose", window=never)), alone)
    half = with_loudness("f", Loudness(name="pose", window=StepWindow(end=0.5)))
    assert not np.array_equal(half, alone)
    assert not np.array_equal(half, plain)


def test_a_stacks_scale_is_the_nets(nets: dict[str, StackEntry], clip: Path, tmp_path: Path) -> None:
    edges = [GivenField(name="edges", file=str(clip))]
    mute = StackEntry(name="edges", file=nets["edges"].file, scale=0.0)
    soft = Sampling(
        **{k: getattr(SMALL, k) for k in SMALL.__slots__}
        | {"conditions": [Loudness(name="edges", scale=0.0)]}
    )
    silenced = drawn(tmp_path / "b", [nets["edges"]], edges, sampling=soft)
    assert np.array_equal(drawn(tmp_path / "a", [mute], edges), silenced)


def test_spellings() -> None:
    told = ["edges=a b.mp4", "pose.of=dance.mp4", "sampling.conditions.edges.scale=0.8", "seed=1"]
    told += ["sampling.conditions.edges.end=0.5"]
    found, said = respelt("generate", told)
    assert found == [
        "seed=1",
        "sampling.conditions=[{name:edges,window:{end:0.5},scale:0.8}]",
        'fields=[{name:edges,file:"a b.mp4",found:false},{name:pose,file:"dance.mp4",found:true}]',
    ]
    assert not said
    assert respelt("edit", ["source=a cat"])[0] == ["source=a cat"]
    assert respelt("train", ["data.given={pose: a.json}"])[0] == ["+data.given={pose: a.json}"]
    assert set(FIELD_NAMES) == set(FIELDS) - {"latents"}


def test_a_body_is_said_beside_the_pose() -> None:
    told, _ = respelt("generate", ["pose.retarget=ann.png", "pose.of=dance.mp4", "edges=a.mp4"])
    entries = (
        '{name:pose,file:"dance.mp4",found:true,retarget:"ann.png"},{name:edges,file:"a.mp4",found:false}'
    )
    assert told == [f"fields=[{entries}]"]
    assert respelt("prepare", ["pose.retarget=ann.png"])[0] == ["pose.retarget=ann.png"]
    padded, _ = respelt("generate", ["pose=a.mp4", "pose.fit=pad"])
    assert padded == ['fields=[{name:pose,file:"a.mp4",found:false,fit:"pad"}]']


def test_poses_have_the_bones_of_a_body(clip: Path, tmp_path: Path) -> None:
    files = {}
    for name, leg in (("dance", 0.1), ("ann", 0.2)):
        joints = [[0.5, 0.5, 0.0] for _ in range(17)]
        for joint, x, y in ((11, 0.6, 0.5), (12, 0.4, 0.5), (13, 0.6, 0.5 + leg), (14, 0.4, 0.5 + leg)):
            joints[joint] = [x, y, 1.0]
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps([[joints]] * FRAMES))
    given = GivenField(name="pose", file=str(files["dance"]), retarget=str(files["ann"]))
    pose = given.read(CUT)["pose"]
    assert pose.shape == (1, FRAMES, 1, 17, 3)
    torch.testing.assert_close(pose[0, :, 0, 13, :2], torch.tensor([[0.6, 0.7]] * FRAMES))
    said = given.said()
    assert said["retarget"] == str(files["ann"])
    assert len(said["retarget_sha256"]) == 64
    pictures = GivenField(name="pose", file=str(clip), retarget=str(files["ann"]))
    with pytest.raises(ValueError, match="pictures of skeletons, whose bones are not known"):
        pictures.read(CUT)
    nobody = tmp_path / "nobody.json"
    nobody.write_text(json.dumps([[[[0.5, 0.5, 0.0]] * 17]]))
    with pytest.raises(ValueError, match=r"no joint|no person"):
        replace(given, retarget=str(nobody)).read(CUT)
    (tmp_path / "torn.json").write_text("{")
    for body, why in (("none.png", "is no file"), ("torn.json", "can't be read")):
        with pytest.raises(ValueError, match=rf"^pose\.retarget=.*{body}.* {why}"):
            replace(given, retarget=str(tmp_path / body)).read(CUT)
    for lacking in ({"file": ""}, {"name": "edges"}, {"file": "[0:a.png]"}):
        with pytest.raises(ValueError, match=r"pose\.retarget=.* there are no key points"):
            replace(given, **lacking)


def wide(folder: Path) -> Path:
    """Twice as wide as high; a stripe at the left that a square out of the middle does not see."""
    video = np.full((FRAMES, SIDE, 2 * SIDE, 3), 90, np.uint8)
    video[:, :, :8] = 255
    return write_mp4(folder / "wide.mp4", video)


def test_a_field_may_be_padded_to_its_square(tmp_path: Path) -> None:
    clip, still = wide(tmp_path), tmp_path / "wide.png"
    pixels = np.full((SIDE, 2 * SIDE, 3), 90, np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(still)
    cut = GivenField(name="control", file=str(clip), fit=Fit.CROP).read(CUT)["control"]
    assert cut.float().std() < 2
    for name, file, num in (("control", clip, FRAMES), ("reference", still, 1)):
        whole = GivenField(name=name, file=str(file), fit=Fit.PAD).read(CUT)[name]
        assert whole.shape == (1, num, 3, SIDE, SIDE)
        assert whole[..., : SIDE // 4, :].max() < 12, "a bar above"
        assert whole[..., -SIDE // 4 :, :].max() < 12, "and one below"
        assert whole[..., SIDE // 2, 1].min() > 200, "what lies at the side is seen"


def test_key_points_go_where_a_video_of_their_canvas_goes(tmp_path: Path) -> None:
    joints = [[100.0, 50.0, 1.0], [50.0, 25.0, 1.0], *[[0.0, 0.0, 0.0]] * 15]
    frame = {"people": [{"keypoints": joints}], "canvas_width": 200, "canvas_height": 100}
    file = tmp_path / "dance.json"
    file.write_text(json.dumps([frame] * FRAMES))
    cut = GivenField(name="pose", file=str(file)).read(CUT)["pose"][0, 0, 0, :2, :2]
    torch.testing.assert_close(cut, torch.tensor([[0.5, 0.5], [0.0, 0.25]]))
    whole = GivenField(name="pose", file=str(file), fit=Fit.PAD).read(CUT)["pose"][0, 0, 0, :2, :2]
    torch.testing.assert_close(whole, torch.tensor([[0.5, 0.5], [0.25, 0.375]]))


def test_another_aspect_is_refused_until_it_is_said_how_it_fits(tmp_path: Path) -> None:
    person = tmp_path / "person.png"
    Image.fromarray((np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(64, 64, 3)).save(person)
    video_model = assemble(DreamPose(), load_backbone(BLANK))
    given = [
        GivenField(name="reference", file=str(person)),
        GivenField(name="pose", file=str(wide(tmp_path))),
    ]
    with pytest.raises(ValueError, match=r"aspect of 2 where reference=.*pose\.fit=pad.*pose\.fit=crop"):
        given_fields(given, video_model, SMALL, 8)
    for fit in (Fit.CROP, Fit.PAD):
        told = [given[0], replace(given[1], fit=fit)]
        assert given_fields(told, video_model, SMALL, 8)["pose"].shape == (1, FRAMES, 3, SIDE, SIDE)


def test_the_aspect_of_key_points_is_that_of_their_canvas(tmp_path: Path) -> None:
    person = tmp_path / "person.png"
    Image.fromarray((np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(64, 64, 3)).save(person)
    joints = [[100.0, 50.0, 1.0]] * 17
    frame = {"people": [{"keypoints": joints}], "canvas_width": 200, "canvas_height": 100}
    (tmp_path / "dance.json").write_text(json.dumps([frame] * FRAMES))
    (tmp_path / "dance").mkdir()
    for i in range(FRAMES):
        (tmp_path / "dance" / f"{i}.json").write_text(json.dumps(frame))
    video_model = assemble(DreamPose(), load_backbone(BLANK))
    reference = GivenField(name="reference", file=str(person))
    for file in (tmp_path / "dance.json", tmp_path / "dance"):
        pose = GivenField(name="pose", file=str(file))
        with pytest.raises(ValueError, match=r"aspect of 2 where reference=.*pose\.fit=pad"):
            given_fields([reference, pose], video_model, SMALL, 8)
        assert given_fields([reference, replace(pose, fit=Fit.PAD)], video_model, SMALL, 8)


def test_a_clip_is_read_as_the_field_says(clip: Path) -> None:
    grey = read_field("edges", clip, CUT)
    assert grey.shape == (FRAMES, SIDE, SIDE)
    assert grey.max() > 200
    depth = read_field("depth", clip, CUT)
    assert depth[0, 16, 16] < depth[0, 2, 2], "bright is near"
    assert read_field("pose", clip, CUT).dtype == np.uint8
    rgb = read_field("control", clip, CUT)
    assert np.array_equal(find_field("edges", clip, CUT), canny(rgb))


def test_depth_in_sixteen_bits_may_be_distance_or_nearness_and_is_refused(tmp_path: Path) -> None:
    millimetres = np.full((SIDE, SIDE), 2000, np.uint16)
    for i in range(FRAMES):
        Image.fromarray(millimetres).save(tmp_path / f"{i}.png")
    for given in (tmp_path, tmp_path / "0.png"):
        with pytest.raises(
            ValueError, match=r"0\.png has 16 bits a pixel, which may be distances.*FILE\.npy"
        ):
            read_field("depth", given, CUT)
    with pytest.raises(ValueError, match="16 bits a pixel"):
        read_frames("depth", {0: tmp_path / "0.png"}, CUT)
    assert read_field("edges", tmp_path, CUT).shape == (FRAMES, SIDE, SIDE)


def test_a_picture_holds_for_all_frames_and_a_folder_one_each(tmp_path: Path) -> None:
    for i in range(FRAMES):
        Image.fromarray(np.full((SIDE, SIDE, 3), 100 * i, np.uint8)).save(tmp_path / f"{i}.png")
    assert read_field("mask", tmp_path / "1.png", CUT).mean((1, 2)).tolist() == [100] * FRAMES
    assert read_field("mask", tmp_path, CUT).mean((1, 2)).tolist() == [0, 100]


def test_openpose_files_are_poses() -> None:
    joints = [[10.0 * j, 20.0, 0.9] for j in range(18)]
    joints[3] = [-1, -1, -1]
    frame = {
        "people": [{"pose_keypoints_2d": [value for joint in joints for value in joint]}],
        "canvas_width": 200,
        "canvas_height": 40,
    }
    pose = of_people([frame, {"people": [], "canvas_width": 200, "canvas_height": 40}])
    assert pose.shape == (2, 1, 18, 3)
    assert np.isnan(pose[0, 0, 3]).all()
    assert np.isnan(pose[1]).all()
    np.testing.assert_allclose(pose[0, 0, 2], [0.1, 0.5, 0.9], rtol=1e-6)
    with pytest.raises(ValueError, match="divide x by the width"):
        of_people([{"people": frame["people"]}])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("flow", None, "colours do not say flow"),
        ("edges", np.zeros((1 + FRAMES, SIDE, SIDE), np.float32), "must be uint8 f h w"),
        ("depth", np.zeros((1, SIDE, SIDE), np.float32), "has 1 frame where 2 are needed"),
        ("pose", [[[[400, 300, 1]] * 17]] * FRAMES, "divide x by the width"),
        ("pose", [[[[0.5, 0.5, 1]] * 12]] * FRAMES, "has 12 joints"),
        ("pose", [[]] * FRAMES, "none of its 2 frames shows a person"),
        ("pose", [[[[2.5, 0.5, 1]] * 17]] * FRAMES, "give who is out of the picture confidence 0"),
        ("flow", np.zeros((1, 8, 16, 2), np.float32), "has pictures of 16 x 8 px where the clip has 32 x 32"),
        ("mask", np.zeros((FRAMES, 16, 16), np.uint8), "has pictures of 16 x 16 px where the clip"),
    ],
)
def test_what_can_not_be_a_field_is_refused(
    name: str, content: object, told: str, clip: Path, tmp_path: Path
) -> None:
    path = clip
    if isinstance(content, np.ndarray):
        path = tmp_path / "x.npy"
        np.save(path, content)
    elif content is not None:
        path = tmp_path / "x.json"
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told):
        read_field(name, path, CUT)


def test_nothing_finds_a_mask(clip: Path) -> None:
    with pytest.raises(ValueError, match="vgen has nothing that finds mask"):
        find_field("mask", clip, CUT)


def test_a_field_that_nobody_hears_is_refused(
    nets: dict[str, StackEntry], clip: Path, tmp_path: Path
) -> None:
    depth = GivenField(name="depth", file=str(clip))
    with pytest.raises(ValueError, match=r"listens to edges; put what does in stack\.depth\.file"):
        drawn(tmp_path / "a", [nets["edges"]], [depth])
    with pytest.raises(ValueError, match=r"'edges' listens to edges; give edges=FILE"):
        drawn(tmp_path / "b", [nets["edges"]], [])


def test_words_have_no_strength(nets: dict[str, StackEntry], clip: Path, tmp_path: Path) -> None:
    loud = Sampling(
        **{k: getattr(SMALL, k) for k in SMALL.__slots__} | {"conditions": [Loudness(name="text", scale=2.0)]}
    )
    with pytest.raises(ValueError, match="names 'text'; the conditions here that have a strength are edges"):
        drawn(tmp_path / "a", [nets["edges"]], [GivenField(name="edges", file=str(clip))], sampling=loud)


@pytest.mark.parametrize("name", ["edges", "pose"])
def test_the_shipped_nets_hold_a_clip_to_what_they_are_shown(name: str, tmp_path: Path) -> None:
    """The toybox's own task: what is drawn fits its own control better than another clip's."""
    counts = {"pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    asked = AskedControl(control=Control(name))
    suite = Suite(kind=Kind.CONTROL, control=asked, iid=2, num_frames=2, stride_ticks=2, **counts)
    todo = tasks(suite)
    stack = [StackEntry(name=name, file=f"shipped_{name}")]
    opened = open_checkpoint("shipped", None, "cpu", stack=stack)
    few = Sampling(num_frames=2, num_steps=8, guidance=3.0)
    rows = [
        task.kind.score(clip, task) for clip, task in zip(sampler_of(opened, few, 2)(todo), todo, strict=True)
    ]
    assert min(row["ctrl_gain"] for row in rows) > 0.2
