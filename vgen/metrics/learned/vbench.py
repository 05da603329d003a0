"""VBench's dimensions whose formula needs no network of its own, and those of a DINO, a CLIP or a linear head
that lie on this machine.

The formulas are VBench's; the official leaderboard also fixes prompts, five samples each, an mp4 and (for
moving dimensions) RAFT. Numbers of the package itself are the metrics called ``vbench_*``.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgen.backbones.flow import farneback
from vgen.metrics.learned.clip_model import CLIP
from vgen.metrics.learned.clip_scores import network
from vgen.metrics.learned.flow import described, flow_ready, motions, opencv_ready
from vgen.metrics.learned.frames import centre_crop, pixels, shortest_edge
from vgen.metrics.learned.identity import DINO, load_dino
from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Slot, read_state
from vgen.metrics.metric import Metric

AESTHETIC = Slot(
    "aesthetic",
    "LAION's linear head sa_0_4_vit_l_14_linear.pth (and set learned.clip.path to "
    "openai/clip-vit-large-patch14)",
)


@plugin(
    Metric("temporal_flickering", 1, "1 - mean difference of neighbouring frames; 1 for a frozen clip, so "
                                     "never alone"),
    source="VBench's formula, over all clips", min_frames=2,
)  # fmt: skip
def temporal_flickering(tools: Tools) -> Scores:
    return Scores(per_clip=[_agreement(video) for video in tools.clips.videos])


@plugin(
    Metric("static_flickering", 1, "temporal_flickering of clips that hardly move; moving ones ask for "
                                   "nothing"),
    source="VBench's temporal_flickering with its static filter, on Farneback's flow instead of "
           "RAFT's", min_frames=2, ready=opencv_ready,
)  # fmt: skip
def static_flickering(tools: Tools) -> Scores:
    return Scores(
        per_clip=[_agreement(v) if _is_static(v) else None for v in tools.clips.videos],
        options={"flow": "Farneback of videos"},
    )


@plugin(
    Metric("dynamic_degree", 1, "share of clips in which enough frames move fast enough"),
    source="VBench's formula on the flow at hand; it wants about 8 frames a "
           "second", better="", min_frames=2, ready=flow_ready,
)  # fmt: skip
def dynamic_degree(tools: Tools) -> Scores:
    options, read = described(tools)
    moves = [_moves(motion.flow, tools.clips.num_frames) for motion in motions(tools)]
    return Scores(per_clip=[float(m) for m in moves], options=options, read=read)


@plugin(
    Metric("subject_consistency", 1, "likeness of each frame to the one before and to the first, DINO "
                                     "features"),
    source="VBench, with facebook/dino-vitb16", slots=[DINO], min_frames=2,
)  # fmt: skip
def subject_consistency(tools: Tools) -> Scores:
    dino = tools.network(DINO, load_dino)
    side = dino.model.config.image_size
    prepare = partial(_prepared, processor=dino.processor, size_px=side, mode="bilinear", crop=False)
    features = tools.features(
        "vbench dino", "videos", lambda video: dino.images(video, tools.settings.batch_size, prepare)
    )
    return Scores(
        per_clip=[_consistency(x) for x in features], resize=f"shortest edge {side}, bilinear, no antialias"
    )


@plugin(
    Metric("background_consistency", 1, "subject_consistency with CLIP features; of the whole frame, in "
                                        "spite of its name"),
    source="VBench, with openai/clip-vit-base-patch32", slots=[CLIP], min_frames=2,
)  # fmt: skip
def background_consistency(tools: Tools) -> Scores:
    return Scores(per_clip=[_consistency(x) for x in _clip_features(tools)], resize=_clip_resize(tools))


@plugin(
    Metric("aesthetic_quality", 1, "LAION's linear score of CLIP features, divided by 10, mean over frames"),
    source="VBench, with openai/clip-vit-large-patch14", slots=[CLIP, AESTHETIC],
)  # fmt: skip
def aesthetic_quality(tools: Tools) -> Scores:
    weight, bias = tools.network(AESTHETIC, lambda located, device: _head(located.path))
    features = _clip_features(tools)
    if features[0].shape[1] != len(weight):
        raise ValueError(
            f"the aesthetic head reads {len(weight)} CLIP features, learned.clip.path gives "
            f"{features[0].shape[1]}; use its own CLIP"
        )
    return Scores(
        per_clip=[float((x @ weight + bias).mean()) / 10 for x in features], resize=_clip_resize(tools)
    )


def _agreement(video: np.ndarray) -> float:
    return 1 - float(np.abs(np.diff(video.astype(np.float64), axis=0)).mean()) / 255


def _consistency(x: np.ndarray) -> float:
    """``x`` unit vectors f d; cosines below 0 count as 0."""
    before, first = (x[1:] * x[:-1]).sum(-1), x[1:] @ x[0]
    return float((before.clip(0) + first.clip(0)).mean() / 2)


def _moves(flow: np.ndarray, num_frames: int) -> bool:
    """In at least a quarter of the frames the fastest 5 % of pixels move, on average, faster than 6 px per
    256 px of the shorter side."""
    limit = 6 * min(flow.shape[1:3]) / 256
    return sum(_fastest(step, 0.05) > limit for step in flow) >= round(4 * num_frames / 16)


def _is_static(video: np.ndarray) -> bool:
    """At most an eighth of the frames, plus nothing between the first and the last one, moves: fastest 2 %
    over 3 px per 256 px."""
    limit, allowed = 3 * min(video.shape[1:3]) / 256, round(2 * len(video) / 16)
    steps = [_fastest(farneback(a, b), 0.02) for a, b in pairwise(video)]
    ends = [_fastest(farneback(a, b), 0.02) for a, b in ((video[0], video[-1]), (video[-1], video[0]))]
    return sum(step > limit for step in steps) <= allowed and all(end <= limit * allowed * 2 for end in ends)


def _fastest(flow: np.ndarray, share: float) -> float:
    """Mean speed, px, of the fastest ``share`` of the pixels of h w 2."""
    speed = np.sort(np.linalg.norm(flow, axis=-1).ravel())[::-1]
    return float(speed[: max(1, int(len(speed) * share))].mean())


def _prepared(frames: np.ndarray, *, processor: Any, size_px: int, mode: str, crop: bool) -> Tensor:
    """VBench's preprocessing of decoded frames: tensors, no antialiasing (its PIL path antialiases and gives
    other scores)."""
    x = shortest_edge(pixels(frames), size_px, mode)
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std)
    )
    return ((centre_crop(x, size_px) if crop else x) - mean) / std


def _clip_features(tools: Tools) -> list[np.ndarray]:
    prepare = partial(
        _prepared, processor=network(tools).processor, size_px=_clip_side(tools), mode="bicubic", crop=True
    )
    return tools.features(
        "vbench clip",
        "videos",
        lambda video: network(tools).tensors(video, tools.settings.batch_size, prepare),
    )


def _clip_side(tools: Tools) -> int:
    return int(network(tools).processor.crop_size["height"])


def _clip_resize(tools: Tools) -> str:
    return f"shortest edge {_clip_side(tools)}, bicubic, no antialias; centre crop"


def _head(path: Path) -> tuple[np.ndarray, float]:
    state = read_state(path, "aesthetic")
    if set(state) != {"weight", "bias"} or len(state["weight"]) != 1:
        raise ValueError(
            f"aesthetic.path={path} must hold a linear layer with one output, got "
            f"{', '.join(sorted(state))}; get LAION's"
        )
    return state["weight"][0].double().numpy(), float(state["bias"])
