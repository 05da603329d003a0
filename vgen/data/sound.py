"""The sound of a video beneath another one, packet by packet as it is: nothing is encoded anew."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from vgen.data.decode import SANDBOX
from vgen.data.leftovers import temporary

FIT = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")
"""Codecs that players expect in an mp4."""


def refuse_silent(path: str | Path) -> None:
    """Raises ValueError where a file has no sound, or none that an mp4 can hold."""
    path = Path(path).expanduser()
    try:
        with av.open(str(path), container_options=SANDBOX) as container:
            codecs = [stream.codec_context.name for stream in container.streams.audio]
    except (av.FFmpegError, OSError) as error:
        raise ValueError(
            f"keep=[audio] reads the sound of {path}, which is no video ({error.strerror}); leave audio out"
        ) from error
    if not codecs:
        raise ValueError(f"keep=[audio] wants the sound of {path}, which has none; leave audio out")
    if codecs[0] not in FIT:
        raise ValueError(
            f"keep=[audio] copies sound as it is, and that of {path} is {codecs[0]}, which an mp4 does not "
            f"hold; convert it to one of {', '.join(FIT)} first"
        )


def add_sound(path: Path, source: str | Path, start_seconds: float) -> None:
    """Put what ``source`` sounds from ``start_seconds`` after its first frame on beneath the mp4 at ``path``,
    as long as that is. The video, and the comment that it carries, stay as they are."""
    made = temporary(path)
    with (
        av.open(str(path)) as shown,
        av.open(str(Path(source).expanduser()), container_options=SANDBOX) as heard,
        av.open(str(made), "w", format="mp4") as out,
    ):
        out.metadata.update(shown.metadata)
        video, audio = shown.streams.video[0], heard.streams.audio[0]
        into, beneath = out.add_stream_from_template(video), out.add_stream_from_template(audio)
        begin = _first_seconds(heard) + Fraction(start_seconds).limit_denominator(10**6)
        length = (video.duration or 0) * (video.time_base or Fraction(1))
        for packet in shown.demux(video):
            if packet.dts is not None:
                packet.stream = into
                out.mux(packet)
        for part in _between(heard, audio, begin, begin + length):
            part.stream = beneath
            out.mux(part)
    made.replace(path)


def _first_seconds(container: av.container.InputContainer) -> Fraction:
    """When the first frame is shown, by the file's clock."""
    stream = container.streams.video[0]
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


def _between(
    container: av.container.InputContainer, audio: av.AudioStream, begin: Fraction, end: Fraction
) -> list[av.Packet]:
    """Packets that begin in these seconds of the file's clock, counted from the first of them."""
    base = audio.time_base or Fraction(1)
    first, out = int(begin / base), []
    for packet in container.demux(audio):
        if packet.pts is None or packet.dts is None or not begin <= packet.pts * base < end:
            continue
        packet.pts, packet.dts = packet.pts - first, packet.dts - first
        out.append(packet)
    return out
