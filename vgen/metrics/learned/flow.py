"""Motion between neighbouring frames: given, or estimated by OpenCV's Farneback; and what it brings onto
what."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vgen.backbones.flow import disagreeing, farneback, inside
from vgen.metrics.learned.settings import FlowOf
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Absent


@dataclass(frozen=True, slots=True)
class Motion:
    """``flow``: float32 f-1 h w 2, x and y in pixels from each frame to the next. ``visible``: bool f-1 h w,
    seen in the next frame."""

    flow: np.ndarray
    visible: np.ndarray


def flow_ready(tools: Tools) -> None:
    """Raises Absent where no flow is given and none can be estimated."""
    if tools.clips.flow is not None:
        return
    if tools.settings.flow_of is FlowOf.SOURCES and tools.clips.sources is None:
        raise Absent("flow_of=sources estimates the motion of the sources, which were not given")
    opencv_ready(tools)


def opencv_ready(tools: Tools) -> None:
    if importlib.util.find_spec("cv2") is None:
        raise Absent(
            "optical flow needs OpenCV, which is not installed: pip install 'vgen[metrics]', or give the flow"
        )


def motions(tools: Tools) -> list[Motion]:
    """One per clip. Pixels that leave the picture are never visible."""
    return tools.once(("motions",), lambda: [_motion(tools, i) for i in range(tools.clips.num)])


def described(tools: Tools) -> tuple[dict[str, str], tuple[str, ...]]:
    """For the manifest: where the flow is from, and which fields of the clips that reads."""
    if tools.clips.flow is not None:
        hidden = tools.clips.hidden is not None
        return {"flow": "given", "hidden": "given" if hidden else "none"}, ("flow", "hidden") if hidden else (
            "flow",
        )
    of = tools.settings.flow_of
    return {"flow": f"Farneback of {of.value}", "hidden": "there and back disagree"}, (
        "sources",
    ) if of is FlowOf.SOURCES else ()


def _motion(tools: Tools, i: int) -> Motion:
    clips = tools.clips
    if clips.flow is not None:
        hidden = clips.hidden[i] if clips.hidden is not None else np.zeros(clips.flow[i].shape[:3], bool)
        return Motion(clips.flow[i], np.stack([inside(flow) for flow in clips.flow[i]]) & ~hidden)
    video = clips.given(tools.settings.flow_of.value)[i]
    forward = [farneback(a, b) for a, b in pairwise(video)]
    backward = [farneback(b, a) for a, b in pairwise(video)]
    visible = [
        inside(there) & ~disagreeing(there, back) for there, back in zip(forward, backward, strict=True)
    ]
    return Motion(np.stack(forward), np.stack(visible))
