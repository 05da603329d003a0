"""Files that are small and unfold to much, or say what no file can: one sentence each, before they are
decoded."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vgen.data.bounded import DEEPEST, read_json, read_npy
from vgen.data.decode import Cut, clips
from vgen.data.ledger import Reason, Rejected, read_ledger
from vgen.data.listing import read_listing
from vgen.data.mp4 import MOST_PIXELS, decode_mp4, on_white
from vgen.data.one_clip import read_clip

CUT = Cut(fps=8.0, num_frames=1, size_px=32)


def huge_clip(path: Path, side: int = 8192) -> Path:
    """One grey frame: 200 kB that unfold to 200 MB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_frames_have_a_size_cap_before_they_are_decoded(tmp_path):
    path = huge_clip(tmp_path / "huge.mp4")
    with pytest.raises(Rejected) as caught:
        next(clips(path, CUT))
    assert caught.value.reason is Reason.TOO_LARGE
    assert caught.value.detail == (
        f"its frames have 8,192 x 8,192 pixels where {MOST_PIXELS:,} are allowed (8192 x 4320)"
    )
    with pytest.raises(ValueError, match="its frames have 8,192 x 8,192 pixels"):
        decode_mp4(path.read_bytes())


@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_gif_that_promises_a_wall_of_pixels_is_one_sentence(tmp_path, num_frames):
    out = io.BytesIO()
    frames = [Image.new("P", (20, 20), color) for color in range(num_frames)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    bomb = bytearray(out.getvalue())
    bomb[6:10] = struct.pack("<HH", 65535, 65535)
    (tmp_path / "bomb.gif").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"bomb.gif can't be used: it has more than 67,108,864 pixels"):
        read_clip(tmp_path / "bomb.gif", CUT)
    with pytest.raises(Rejected):
        next(clips(tmp_path / "bomb.gif", CUT))


def npy(header: str, payload: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + payload


HEADERS = {
    "a shape beyond memory": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 9)}",
    "nothing of what can't be": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 10**30)}",
    "no rows of an impossible length": f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {10**30})}}",
    "negative sides": "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1)}",
    "items of no size": "{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999,)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "a call": "__import__('os').system('touch executed')",
    "brackets without end": "(" * 5000,
    "no type": "{'descr': [[]], 'fortran_order': False, 'shape': (1,)}",
    "a string without end": "{'descr': '''",
    "no header": "",
}


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("header", HEADERS)
def test_absurd_npy_headers_are_one_sentence(tmp_path, monkeypatch, header, version):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"."):
        read_npy(npy(HEADERS[header], b"\0" * 4, version))
    assert not Path("executed").exists()


def test_nested_data_ends_somewhere():
    shallow = "[" * DEEPEST + "]" * DEEPEST
    assert read_json(shallow.encode())
    for depth in (DEEPEST + 1, 500, 100_000):
        with pytest.raises(ValueError, match="nested"):
            read_json(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_deep_file_beside_a_video_is_a_row_of_the_ledger(studio, tmp_path, depth):
    for name in ("a", "b"):
        studio.caption(studio.write_video(tmp_path / "in" / f"{name}.mp4"))
    (tmp_path / "in" / "a.txt").unlink()
    (tmp_path / "in" / "a.json").write_text('{"caption": "x", "more": ' + "[" * depth + "]" * depth + "}")
    studio.run(tmp_path / "in", tmp_path / "out", num_processes=1)
    [rejection] = read_ledger(tmp_path / "out")
    assert (rejection.source, rejection.reason) == ("a.mp4", Reason.MISSING_CAPTION)
    assert "a.json can't be read" in rejection.detail


LISTINGS = {
    "cut.csv": b'path,caption\na.mp4,"a b',
    "cut.jsonl": b'{"path": "a.mp4", "caption": "x"}\n{"path": "b.mp4", "capt',
    "deep.jsonl": b'{"path": "a.mp4", "caption": "x", "more": ' + b"[" * 500 + b"]" * 500 + b"}\n",
    "zeros.csv": b"path,caption\na.mp4,\0\0\0\n" + b"\0" * 5000,
    "bytes.tsv": b"path\tcaption\na.mp4\t\xff\xfe\n",
    "cut.parquet": b"PAR1\x15\x04",
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_that_is_cut_or_none_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(LISTINGS[name])
    with pytest.raises(ValueError, match=f"listing .*{name}") as caught:
        list(read_listing(tmp_path / name, ["path", "caption"]))
    assert "\n" not in str(caught.value)


def half_transparent() -> np.ndarray:
    """Red; the right half is there for nobody to see."""
    picture = np.zeros((64, 96, 4), np.uint8)
    picture[..., 0], picture[:, :48, 3] = 255, 255
    return picture


def test_what_is_transparent_is_white_in_pictures_and_in_clips(tmp_path):
    picture = half_transparent()
    Image.fromarray(picture).save(tmp_path / "a.png")
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", 10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "argb"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="argb")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    still, moving = (
        read_clip(tmp_path / name, Cut(fps=8, num_frames=1, size_px=64)) for name in ("a.png", "a.mov")
    )
    assert np.abs(still.astype(int) - moving).max() <= 1
    assert (still[0, 32, 8].tolist(), still[0, 32, 60].tolist()) == ([255, 0, 0], [255, 255, 255])
    assert next(clips(tmp_path / "a.mov", CUT)).metadata["source_alpha"] == "on white"


@pytest.mark.parametrize("opacity", [0, 1, 100, 254, 255])
def test_half_a_colour_is_mixed_as_pillow_does(opacity):
    picture = np.random.default_rng(opacity).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    picture[..., 3] = opacity
    behind = Image.new("RGBA", (8, 8), "white")
    theirs = np.asarray(Image.alpha_composite(behind, Image.fromarray(picture)).convert("RGB"))
    assert np.abs(on_white(picture).astype(int) - theirs).max() <= 1


def test_transparency_that_stays_closed_is_said(tmp_path):
    """VP9 keeps it in a second stream of each picture, which FFmpeg's own decoder leaves closed."""
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", 10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuva420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(half_transparent(), "rgba").reformat(format="yuva420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert next(clips(tmp_path / "a.webm", CUT)).metadata["source_alpha"] == "dropped"
