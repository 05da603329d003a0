"""Decoding: time decides which frames, and only sound files pass."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vgen.data.decode import Cut, clips
from vgen.data.ledger import Reason, Rejected
from vgen.data.mp4 import decode_mp4, encode_mp4, to_rgb
from vgen.data.one_clip import read_clip

CUT = Cut(fps=8, num_frames=16, size_px=32)


def verdict(path: Path, cut: Cut = CUT) -> Rejected:
    with pytest.raises(Rejected) as caught:
        list(clips(path, cut))
    return caught.value


def bar_positions(video: np.ndarray) -> np.ndarray:
    """``f``: where the bar is in each frame, in clip widths."""
    weight = np.clip(video[..., 0].astype(float).mean(1) - 60, 0, None)
    return (weight * (np.arange(video.shape[2]) + 0.5)).sum(1) / weight.sum(1) / video.shape[2]


@pytest.mark.parametrize("fps", [10, 24, 25, 30, 60])
def test_sources_of_any_rate_show_the_same_moments(studio, tmp_path, fps):
    path = studio.write_video(tmp_path / "a.mp4", fps, 2.0, width=256, height=256)
    [clip] = clips(path, CUT)
    moments = bar_positions(clip.video)[1:] * 4  # seconds; the first bar is half outside
    assert np.abs(moments - np.arange(1, 16) / 8).max() <= 0.5 / fps + 0.03


def test_a_long_video_is_split_and_a_remainder_left(studio, tmp_path):
    path = studio.write_video(tmp_path / "a.mp4", 24, 3.4)
    found = list(clips(path, Cut(fps=8, num_frames=8, size_px=16)))
    assert [c.metadata["start_seconds"] for c in found] == [0.0, 1.0, 2.0]
    whole = next(iter(clips(path, Cut(fps=8, num_frames=24, size_px=16))))
    assert np.array_equal(np.concatenate([c.video for c in found]), whole.video)


def test_a_picture_that_is_held_stays_until_its_successor_appears(tmp_path):
    path = tmp_path / "held.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        for seconds, grey in [(0, 0), (0.04, 0), (1.5, 250), (1.54, 250), (1.96, 250)]:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(seconds * 25), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    [clip] = clips(path, CUT)
    assert (clip.video.mean((1, 2, 3)) > 128).tolist() == [False] * 12 + [True] * 4


def test_the_short_side_is_fitted_and_the_centre_kept(studio, tmp_path):
    path = studio.write_video(tmp_path / "wide.mp4", width=128, height=64)
    clip = next(iter(clips(path, CUT)))
    assert clip.video.shape == (16, 32, 32, 3)
    assert clip.metadata["aspect"] == 2.0
    assert (
        clip.metadata["source_width_px"],
        clip.metadata["source_height_px"],
        clip.metadata["source_fps"],
    ) == (128, 64, 24.0)
    assert (
        clip.video[4, :, 8:].max() < 60
    )  # half a second in, the bar is an eighth of the way: outside the centre
    assert clip.video[8, :, 0].max() > 100  # after a second it enters


def test_a_turned_phone_video_is_shown_upright(studio, tmp_path):
    path = studio.write_video(tmp_path / "phone.mp4", width=96, height=64)
    upright = next(iter(clips(path, CUT)))
    payload = bytearray(path.read_bytes())
    matrix = payload.index(b"tkhd") + 4 + 40
    one = 1 << 16
    payload[matrix : matrix + 36] = struct.pack(
        ">9i", 0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30
    )  # a quarter turn clockwise
    path.write_bytes(payload)
    turned = next(iter(clips(path, CUT)))
    assert turned.metadata["aspect"] == round(64 / 96, 6)
    assert np.array_equal(turned.video, np.rot90(upright.video, -1, (1, 2)))


def test_damage_is_named(studio, tmp_path):
    sound = studio.write_video(tmp_path / "a.mp4", 24, 2.0).read_bytes()
    path = tmp_path / "broken.mp4"
    assert verdict(tmp_path / "absent.mp4").reason is Reason.MISSING_FILE
    path.write_bytes(b"")
    assert verdict(path).reason is Reason.EMPTY
    for payload in (bytes(5000), b"not a video " * 500, sound[: len(sound) // 2]):
        path.write_bytes(payload)
        assert verdict(path).reason is Reason.CORRUPT
    assert verdict(studio.write_audio(tmp_path / "sound.mp4")).reason is Reason.AUDIO_ONLY
    short = verdict(studio.write_video(tmp_path / "short.mp4", 24, 1.0))
    assert (short.reason, short.detail) == (
        Reason.TOO_SHORT,
        "1.00 s, a clip needs 2.00 s (16 frames at 8 fps)",
    )


@pytest.mark.parametrize("name", ["none.mkv", "none.mp4", "none.avi"])
def test_a_video_stream_without_frames_is_named(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 32
        container.start_encoding()
    assert verdict(tmp_path / name).reason is Reason.NO_FRAMES


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_are_found(studio, tmp_path, seed):
    path = studio.write_video(tmp_path / "a.mp4", 24, 2.0)
    payload = np.frombuffer(path.read_bytes(), np.uint8).copy()
    start = path.read_bytes().index(b"mdat") + 800  # after the first picture's headers
    where = np.random.default_rng(seed).integers(start, len(payload) * 2 // 3, 40)
    payload[where] ^= 0xFF
    path.write_bytes(payload.tobytes())
    assert verdict(path).reason is Reason.CORRUPT


def test_a_file_cut_between_two_packets_is_found_by_its_promise(studio, tmp_path):
    """Index first, then data: such a file opens and decodes without complaint up to the cut."""
    sound = studio.write_video(tmp_path / "a.mp4", 24, 2.0)
    path = tmp_path / "fast.mp4"
    with av.open(str(sound)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    with av.open(str(path)) as whole:
        packets = [p for p in whole.demux(video=0) if p.size]
    path.write_bytes(path.read_bytes()[: packets[-12].pos])
    rejected = verdict(path, Cut(fps=8, num_frames=8, size_px=16))
    assert rejected.reason is Reason.CORRUPT
    assert "promises 2.00 s" in rejected.detail


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
@pytest.mark.parametrize("with_sound", [False, True])
def test_a_cut_matroska_file_is_found_by_its_promise(tmp_path, name, with_sound):
    """Such a file states no length for its stream: a tag does, or the length of the whole where nothing else
    is in it."""
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if name.endswith("webm") else "libx264", rate=24)
        stream.width = stream.height = 32
        sound = container.add_stream("libopus", rate=48000) if with_sound else None
        if sound is not None:  # longer than the pictures, as is common
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 5 * 48000), np.float32), "fltp", "mono")
            frame.sample_rate = 48000
            resampler = av.AudioResampler(sound.format, sound.layout, sound.rate, frame_size=960)
            for part in resampler.resample(frame):
                container.mux(sound.encode(part))
        noise = np.random.default_rng(0)
        for i in range(72):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (32, 32, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    cut = Cut(fps=8, num_frames=8, size_px=16)
    assert len(list(clips(path, cut))) == 3
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    rejected = verdict(path, cut)
    assert (rejected.reason, "promises" in rejected.detail) == (Reason.CORRUPT, True)


def test_avi_with_frames_out_of_order_is_read_in_order(studio, tmp_path):
    """AVI stores no time: with B-frames its packets come in the order of decoding."""
    moving = np.stack([studio.picture(i / 6, 64, 64) for i in range(24)])
    for name in ("a.avi", "a.mp4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"bf": "3", "b-adapt": "0", "crf": "12"})
            stream.width = stream.height = 64
            for i, image in enumerate(moving):
                frame = av.VideoFrame.from_ndarray(image, "rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 8)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    found = [
        next(iter(clips(tmp_path / name, Cut(fps=8, num_frames=24, size_px=64)))).video
        for name in ("a.avi", "a.mp4")
    ]
    assert np.array_equal(*found)


def test_a_playlist_under_the_name_of_a_video_opens_nothing(studio, tmp_path):
    secret = studio.write_video(tmp_path / "secret.mp4")
    path = tmp_path / "list.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n")
    assert verdict(path).reason is Reason.CORRUPT
    path.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    assert verdict(path).reason is Reason.CORRUPT


def test_mp4_in_memory_is_repeatable_and_close(studio):
    video = np.stack([studio.picture(1 + i / 8, 64, 64) for i in range(8)])
    payload = encode_mp4(video, 8, 12)
    assert payload == encode_mp4(video, 8, 12)
    again = decode_mp4(payload)
    assert again.shape == video.shape
    assert np.abs(again.astype(int) - video).mean() < 3
    flat = np.full((2, 32, 32, 3), (200, 30, 90), np.uint8)
    assert (
        np.abs(decode_mp4(encode_mp4(flat, 8, 5)).astype(int) - flat).max() <= 4
    )  # colours keep their place


ENCODE = """
import hashlib, sys
import numpy as np
from vgen.data.mp4 import encode_mp4
sizes = map(int, sys.argv[1:])
noise = np.random.default_rng(0)
for size in sizes:
    shift = np.arange(8)[:, None, None, None]
    waves = 120 + 100 * np.sin(np.linspace(0, 9, size)[None, :, None, None] * np.linspace(1, 3, size)[None, None, :, None] + shift)
    video = (waves + noise.normal(0, 12, (8, size, size, 3))).clip(0, 255).astype(np.uint8)
    print(hashlib.sha256(encode_mp4(video, 8, 18)).hexdigest())
"""  # noqa: E501


def test_mp4_bytes_do_not_depend_on_what_lies_in_fresh_memory():
    """glibc fills fresh memory with a pattern of our choice: what reads memory that it never wrote gives
    itself away."""
    said = [
        subprocess.run(
            [sys.executable, "-c", ENCODE, "32", "64", "160"],
            env=os.environ | {"MALLOC_PERTURB_": fill},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for fill in ("1", "255")
    ]
    assert said[0] == said[1]
    assert len(said[0].split()) == 3


@pytest.mark.clips
def test_real_clips_decode(real_clips):
    for name, seconds in [("man-skiing.mp4", 3.0), ("rabbit-watermelon.mp4", 6.1), ("test_video1.mp4", 2.0)]:
        found = list(clips(real_clips / name, Cut(fps=4, num_frames=4, size_px=32)))
        assert len(found) == int(seconds)
        assert all(clip.video.std() > 20 for clip in found)


def test_hd_sources_without_a_colour_matrix_are_read_as_bt709():
    frame = av.VideoFrame.from_ndarray(np.full((720, 16, 3), (200, 30, 90), np.uint8), "rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.colorspace = 2
    assert np.abs(to_rgb(frame)[8, 8].astype(int) - (200, 30, 90)).max() <= 3


@pytest.mark.parametrize(
    ("a", "d", "shown"),
    [(-1, 1, np.s_[:, :, ::-1]), (1, -1, np.s_[:, ::-1])],
    ids=["mirrored", "upside down"],
)
def test_a_mirrored_video_is_shown_as_players_do(studio, tmp_path, a, d, shown):
    path = studio.write_video(tmp_path / "selfie.mp4", width=96, height=64)
    plain = next(iter(clips(path, CUT)))
    payload = bytearray(path.read_bytes())
    matrix = payload.index(b"tkhd") + 4 + 40
    payload[matrix : matrix + 36] = struct.pack(">9i", a << 16, 0, 0, 0, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(payload)
    assert np.array_equal(next(iter(clips(path, CUT))).video, plain.video[shown])


@pytest.mark.parametrize("name", ["late.mkv", "late.webm", "late.mp4", "late.ts"])
def test_a_video_that_starts_late_in_its_file_is_sound(tmp_path, name):
    """Matroska's header says when a video ends, not how long it is."""
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libvpx" if name.endswith("webm") else "libx264", rate=24)
        stream.width = stream.height = 32
        stream.codec_context.time_base = Fraction(1, 24)
        for i in range(48):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i + 60, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(list(clips(tmp_path / name, Cut(fps=8, num_frames=8, size_px=16)))) == 2


OPEN = {"x264-params": "open-gop=1:keyint=24:min-keyint=24:bframes=3"}


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", OPEN), ("mpeg2video", {"g": "24", "bf": "2", "sc_threshold": "1000000000"})],
)
@pytest.mark.parametrize("first", ["whole picture", "somewhere"])
def test_a_recording_joined_in_the_middle_begins_with_its_first_whole_picture(
    tmp_path, codec, options, first
):
    """Its first pictures lean on some that are not in the file."""
    pictures = [np.full((64, 64, 3), 3 * i, np.uint8) for i in range(72)]
    with av.open(str(tmp_path / "whole.ts"), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "whole.ts")) as source, av.open(str(tmp_path / "joined.ts"), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(video=0) if p.size]
        second = [i for i, p in enumerate(packets) if p.is_keyframe][1]
        for packet in packets[second if first == "whole picture" else second - 7 :]:
            packet.stream = stream
            copy.mux(packet)
    found = np.concatenate(
        [c.video for c in clips(tmp_path / "joined.ts", Cut(fps=24, num_frames=24, size_px=16))]
    )
    assert np.abs(found.mean((1, 2, 3)) - np.arange(72, 216, 3)).max() < 5, (
        "no picture is missing, painted over or out of order"
    )


def test_what_a_picture_shows_is_what_people_see(tmp_path):
    turned, exif = (
        Image.fromarray(np.uint8([[[255, 0, 0], [0, 0, 255]]]).repeat(32, 0).repeat(32, 1)),
        Image.Exif(),
    )
    exif[0x0112] = 6  # turned a quarter clockwise to be seen upright
    turned.save(tmp_path / "phone.png", exif=exif)
    seen = read_clip(tmp_path / "phone.png", Cut(num_frames=1, size_px=16))[0]
    assert seen[0, 8, 0] > 200 > 50 > seen[0, 8, 2]
    Image.fromarray(np.full((32, 32), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert abs(int(read_clip(tmp_path / "deep.png", Cut(num_frames=1, size_px=16))[0, 0, 0, 0]) - 127) <= 1
    Image.new("RGBA", (32, 32), (255, 0, 255, 0)).save(tmp_path / "clear.png")
    assert (read_clip(tmp_path / "clear.png", Cut(num_frames=1, size_px=16)) == 255).all()
    Image.new("RGB", (32, 32), "red").save(
        tmp_path / "two.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32), "blue")]
    )
    assert read_clip(tmp_path / "two.jpg", Cut(num_frames=1, size_px=16))[0, 0, 0, 0] > 200


def test_a_clip_from_the_middle_of_a_video_is_read_without_what_lies_before(studio, tmp_path):
    path = studio.write_video(tmp_path / "long.mp4", 24, 8.0)
    late = read_clip(path, Cut(fps=8, num_frames=8, size_px=32), start_seconds=3.0)
    assert np.array_equal(late, next(clips(path, Cut(fps=8, num_frames=32, size_px=32))).video[24:])
    assert late.base is None, "no view of a longer clip"
    [found] = clips(path, Cut(fps=8, num_frames=30, size_px=32), skip=24)
    assert found.metadata["start_seconds"] == 3.0
    with pytest.raises(
        ValueError, match=r"too short .*8.00 s, a clip needs 2.00 s .* after the first 7.00 s"
    ):
        read_clip(path, Cut(fps=8, num_frames=16, size_px=32), start_seconds=7.0)
