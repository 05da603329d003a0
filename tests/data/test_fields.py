"""Fields: what is written is what is read, within bounds; what is cut and mirrored stays with the video."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vgen.data.fields import FIELDS, NAMES, Field, Needs
from vgen.data.mp4 import encode_mp4
from vgen.data.sample import Encoding, Sample, Video, pack, unpack

NPY = Encoding(video=Video.npy)
F, H, W = 6, 8, 10


def some(name: str, seed: int = 0) -> np.ndarray:
    """A stored array of six frames (flow: of five)."""
    rng = np.random.default_rng(seed)
    field = FIELDS[name]
    sizes = {"f": F - field.between, "h": H, "w": W, "p": 2, "j": 18, "n": 2, "c": 4}
    shape = [int(axis) if axis.isdigit() else sizes[axis] for axis in field.axes.split()]
    if field.dtype is np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return (rng.integers(0, 257, shape) / 256).astype(field.dtype)


def sample(**fields: np.ndarray) -> Sample:
    video = np.random.default_rng(9).integers(0, 256, (F, H, W, 3), dtype=np.uint8)
    return Sample("a", video, "words", {"fps": 8.0}, fields)


def npy(array: np.ndarray, **how: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def picture(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def huge_png(side: int) -> bytes:
    """The headers of a picture of a side that nobody decodes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99)))


@pytest.mark.parametrize("name", FIELDS)
def test_unpacking_inverts_packing(name: str) -> None:
    array = some(name)
    members = pack(sample(**{name: array}), NPY)
    assert [e for e in members if e.startswith(name)] == [f"{name}.npy"]
    found = unpack("a", members).fields
    assert list(found) == [name]
    assert found[name].dtype == array.dtype
    assert np.array_equal(found[name], array)


def test_a_sample_without_caption_or_fields_stays_so() -> None:
    bare = Sample("a", sample().video, None, {})
    assert list(pack(bare, NPY)) == ["npy", "json"]
    assert unpack("a", pack(bare, NPY), Needs(required=frozenset({"video"}))).caption is None
    only = unpack("a", pack(sample(depth=some("depth")), NPY), Needs(required=frozenset({"depth"})))
    assert (only.video, only.caption, only.num_frames) == (None, None, F)


def test_other_formats_are_read() -> None:
    grey, rgb = some("mask")[0], some("reference")[0]
    lists = [[[[0.25, 0.5, 1.0]] * 17], [[[None, None, 0]] * 17, [[0.5, 0.5, 1]] * 17]]
    pose = FIELDS["pose"].decode(json.dumps(lists).encode(), "a.pose.json")
    assert (pose.shape, pose.dtype) == ((2, 2, 17, 3), np.float32)
    assert np.isnan(pose[0, 1]).all()
    assert np.isnan(pose[1, 0, :, :2]).all()
    assert np.array_equal(FIELDS["mask"].decode(picture(Image.fromarray(grey)), "a.mask.png"), grey[None])
    reference = FIELDS["reference"]
    assert np.array_equal(reference.decode(picture(Image.fromarray(rgb)), "a.reference.png"), rgb[None])
    photo = picture(Image.fromarray(rgb), "JPEG")
    assert reference.decode(photo, "a.reference.jpg").shape == (1, H, W, 3)
    clip = encode_mp4(np.zeros((3, 16, 16, 3), np.uint8), 8.0, 18)
    assert FIELDS["source"].decode(clip, "a.source.mp4").shape == (3, 16, 16, 3)


class Evil:
    """Unpickling it would leave a mark."""

    def __reduce__(self):
        return open, ("executed", "w")


def header_only(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def crowd() -> bytes:
    """JSON of a few kilobytes whose array would have a terabyte."""
    person = "[" + ",".join(["[0,0,0]"] * 17) + "]"
    return f"[[{','.join([person] * 3000)}]{',[]' * 200_000}]".encode()


@pytest.mark.parametrize(
    ("where", "payload", "message"),
    [
        ("a.depth.npy", header_only((10**6, 10**6)), "its header promises 4,000,000,000,000 bytes where 2,1"),
        ("a.depth.npy", header_only((1, 8, 8)), "its header promises 256 bytes and 0 follow"),
        ("a.depth.npy", npy(np.array([Evil()], object), allow_pickle=True), "it holds Python objects, which"),
        ("a.depth.npy", pickle.dumps(Evil()), "a.depth.npy can't be read"),
        (
            "a.depth.npy",
            npy(np.zeros((6, 8, 10))),
            "a.depth.npy must be float32 f h w, got float64 (6, 8, 10)",
        ),
        (
            "a.depth.npy",
            npy(np.zeros((6, 8), np.float32)),
            "must be float32 f h w, got float32 (6, 8); write",
        ),
        ("a.depth.npy", npy(np.zeros((0, 8, 8), np.float32)), "must be float32 f h w, got float32 (0, 8, 8)"),
        ("a.flow.npy", npy(np.zeros((5, 8, 8, 3), np.float32)), "must be float32 f h w 2, got float32 (5, 8"),
        ("a.depth.png", b"", "depth is read from .npy, got .png"),
        ("a.mask.png", huge_png(30_000), "it has more than 67,108,864 pixels"),
        ("a.mask.png", huge_png(9_000), "it has 9,000 x 9,000 pixels where 67,108,864 are allowed"),
        ("a.mask.png", b"junk", "it is damaged, cut off or no PNG"),
        (
            "a.mask.png",
            picture(Image.new("RGB", (64, 64)))[:60],
            "it must be grey with 8 bits, got a picture",
        ),
        ("a.mask.png", picture(Image.new("L", (64, 64)))[:50], "it is damaged, cut off or no PNG"),
        (
            "a.reference.png",
            picture(Image.new("RGBA", (8, 8))),
            "without transparency, got a picture of mode",
        ),
        ("a.pose.json", b"[" * 100_000, "it is nested too deeply"),
        ("a.pose.json", b" " * (2 << 20), "it has 2,097,152 bytes where 1,048,576 are allowed"),
        ("a.pose.json", crowd(), "bytes where 2,147,483,648 are allowed"),
        ("a.pose.json", b'{"a": 1}', "it must hold a list of frames, each a list of people"),
        ("a.pose.json", b"[[[[0, 1, 1]]], [[[0, 1]]]]", "all people must have the same joints"),
        ("a.source.mp4", b"junk", "a.source.mp4 can't be read: it is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_malformed_or_too_large_is_one_sentence(
    where: str, payload: bytes, message: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r".") as caught:
        FIELDS[where.split(".")[1]].decode(payload, where)
    assert message in str(caught.value)
    assert str(caught.value).startswith(where)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_pose_must_be_one() -> None:
    pose = some("pose")
    for bad, message in [
        (
            pose[:, :, :16],
            r"a.pose.npy: pose has 16 joints; 17 \(COCO\), 18 \(COCO \+ neck\), 25 \(BODY-25\)",
        ),
        (np.full_like(pose, np.nan), "pose shows no joint in the whole clip"),
        (pose * [200, 200, 1], "pose has a joint .* widths or heights from the centre, at most 1.5"),
        (np.full_like(pose, np.inf), "pose has a joint inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            FIELDS["pose"].decode(npy(bad.astype(np.float32)), "a.pose.npy")


def test_fields_are_as_long_as_the_video() -> None:
    with pytest.raises(ValueError, match=r"depth of sample 'a' must have 6 entries, .* 6 frames, got 5"):
        sample(depth=some("depth")[1:])
    with pytest.raises(ValueError, match=r"flow of sample 'a' must have 5 or 6 entries, .*, got 4"):
        sample(flow=some("flow")[1:])
    assert sample(flow=np.zeros((F, H, W, 2), np.float32), mask=some("mask")[:1]).num_frames == F
    with pytest.raises(ValueError, match=r"fields of sample 'a' must be of pose, flow, .*, got foo"):
        sample(foo=np.zeros(3))


@pytest.mark.parametrize("field", [f for f in FIELDS.values() if f.reflect], ids=lambda f: f.name)
def test_mirroring_twice_changes_nothing(field: Field) -> None:
    array = some(field.name)
    assert not np.array_equal(field.mirror(array), array)
    assert np.array_equal(field.mirror(field.mirror(array)), array)


def test_a_mirrored_picture_is_the_field_of_the_mirrored_video() -> None:
    for name in ("depth", "edges", "mask"):
        assert np.array_equal(FIELDS[name].mirror(some(name)), some(name)[:, :, ::-1])
    for name in ("source", "reference"):
        assert np.array_equal(FIELDS[name].mirror(some(name)), some(name)[:, :, ::-1, :])
    with pytest.raises(ValueError, match=r"latents can't be mirrored; set data.window.flip=false"):
        FIELDS["latents"].mirror(some("latents"))


def test_mirrored_flow_leads_to_the_mirrored_place() -> None:
    flow = np.zeros((1, 4, 8, 2), np.float32)
    flow[0, 1, 2] = 3, 1  # from (2, 1) to (5, 2)
    there = FIELDS["flow"].mirror(flow)[0, 1, 8 - 1 - 2]
    assert there.tolist() == [-3, 1]  # from x = 5 to x = 2, as 7 - 5 is
    assert 8 - 1 - 2 + there[0] == 8 - 1 - 5


OPENPOSE = "nose neck rsho relb rwri lsho lelb lwri {} rhip rkne rank lhip lkne lank reye leye rear lear {}"
LAYOUTS = {
    17: "nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank",
    18: OPENPOSE.format("", ""),
    25: OPENPOSE.format("mhip", "lbig lsma lhee rbig rsma rhee"),
}


@pytest.mark.parametrize("num_joints", LAYOUTS)
def test_a_mirrored_pose_exchanges_left_and_right(num_joints: int) -> None:
    """By the names that the layouts give their joints; what is missing stays missing on the other side."""
    names = LAYOUTS[num_joints].split()
    middle = {"nose", "neck", "mhip"}
    pose = np.ones((2, 1, num_joints, 3), np.float32)
    pose[..., 0] = np.arange(num_joints) / 32
    pose[1, 0, names.index("lank")] = np.nan
    out = FIELDS["pose"].mirror(pose)
    for i, name in enumerate(names):
        other = name if name in middle else ("l" if name[0] == "r" else "r") + name[1:]
        assert out[0, 0, i, 0] == 1 - names.index(other) / 32
        assert np.isnan(out[1, 0, i]).all() == (name == "rank")
    assert not np.isnan(pose[1, 0, names.index("rank")]).any()


@pytest.mark.parametrize("name", FIELDS)
def test_a_cut_is_that_of_the_videos_frames(name: str) -> None:
    field = FIELDS[name]
    array = some(name)
    if field.per_frame:
        array = np.stack([np.full_like(array[0], i) for i in range(len(array))])
    for frames in (slice(1, 4, 1), slice(0, 5, 2), slice(2, 3, 1)):
        at = np.arange(F)[frames]
        if field.between and frames.step > 1:
            with pytest.raises(
                ValueError, match=r"so it can't be cut at stride 2; set data.window.stride_fr"
            ):
                field.cut(array, frames)
        elif field.between:
            assert field.cut(array, frames)[:, 0, 0, 0].tolist() == at[:-1].tolist()
        elif field.per_frame:
            part = field.cut(array, frames)
            assert part.reshape(len(at), -1)[:, 0].astype(int).tolist() == at.tolist()
        else:
            assert field.cut(array, frames) is array


def test_needs_are_of_known_fields() -> None:
    with pytest.raises(ValueError, match=f"fields are {', '.join(NAMES)}, got smell"):
        Needs(required=frozenset({"smell"}))
