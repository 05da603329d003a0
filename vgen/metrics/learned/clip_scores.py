"""What CLIP says of frames, prompts and edits. Cosines of unit vectors, float64, no clamp."""

from __future__ import annotations

import numpy as np

from vgen.metrics.learned.clip_model import CLIP, ClipModel, load_clip
from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.metric import Metric

_STILL = 1e-6  # a difference of unit vectors shorter than this is rounding, and has no direction


@plugin(
    Metric("clip_frame_all_pairs", 1, "mean cosine over all pairs of different frames"),
    source="Tune-A-Video; TGVE's clip_score_frame", slots=[CLIP], min_frames=2,
)  # fmt: skip
def clip_frame_all_pairs(tools: Tools) -> Scores:
    def of(x: np.ndarray) -> float:
        return float((np.square(x.sum(0)).sum() - np.square(x).sum()) / (len(x) * (len(x) - 1)))

    return _scores(tools, [of(x) for x in images(tools)])


@plugin(
    Metric("clip_frame_consecutive", 1, "mean cosine of neighbouring frames"),
    source="FateZero's and Rerender's Tem-Con", slots=[CLIP], min_frames=2,
)  # fmt: skip
def clip_frame_consecutive(tools: Tools) -> Scores:
    return _scores(tools, [float((x[1:] * x[:-1]).sum(-1).mean()) for x in images(tools)])


@plugin(
    Metric("clip_text", 1, "100 times the mean cosine of frames and prompt"),
    source="Tune-A-Video's textual alignment; TGVE's clip_score_text, whose trained scale is "
           "100", needs=["prompts"], slots=[CLIP],
)  # fmt: skip
def clip_text(tools: Tools) -> Scores:
    pairs = zip(images(tools), texts(tools, "prompts"), strict=True)
    return _scores(tools, [100 * float((x @ text).mean()) for x, text in pairs], "prompts")


@plugin(
    Metric("clip_frame_accuracy", 1, "share of frames that are at least as close to the prompt as to the "
                                     "source's prompt"),
    source="FateZero's Fram-Acc", needs=["prompts", "source_prompts"], slots=[CLIP],
)  # fmt: skip
def clip_frame_accuracy(tools: Tools) -> Scores:
    triples = zip(images(tools), texts(tools, "prompts"), texts(tools, "source_prompts"), strict=True)
    return _scores(
        tools, [float((x @ new >= x @ old).mean()) for x, new, old in triples], "prompts", "source_prompts"
    )


@plugin(
    Metric("clip_direction", 1, "cosine of what changed in the frames and what changed in the words, mean "
                                "over frames"),
    source="Gal et al. 2021; InstructPix2Pix' direction "
           "similarity", needs=["sources", "prompts", "source_prompts"], slots=[CLIP],
)  # fmt: skip
def clip_direction(tools: Tools) -> Scores:
    """A copy of the source scores 0; None where the prompts ask for no change."""
    rows = zip(
        images(tools),
        images(tools, "sources"),
        texts(tools, "prompts"),
        texts(tools, "source_prompts"),
        strict=True,
    )
    return _scores(
        tools,
        [_direction(x - old_x, text - old_text) for x, old_x, text, old_text in rows],
        "prompts",
        "source_prompts",
    )


@plugin(
    Metric("clip_identity", 1, "CLIP-I: mean cosine over all pairs of a frame and a picture of the subject"),
    source="DreamBooth", needs=["subjects"], slots=[CLIP],
)  # fmt: skip
def clip_identity(tools: Tools) -> Scores:
    pairs = zip(images(tools), images(tools, "subjects"), strict=True)
    return _scores(tools, [float((x @ subject.T).mean()) for x, subject in pairs])


def images(tools: Tools, field: str = "videos") -> list[np.ndarray]:
    """Unit vectors f d of every entry of a field."""
    pair = network(tools)
    return tools.features("clip", field, lambda frames: pair.images(frames, tools.settings.batch_size))


def texts(tools: Tools, field: str) -> np.ndarray:
    """Unit vectors n d."""
    return tools.once(("clip texts", field), lambda: network(tools).texts(list(tools.clips.given(field))))


def network(tools: Tools) -> ClipModel:
    return tools.network(CLIP, load_clip)


def cut_note(pair: ClipModel, prompts: list[str]) -> list[str]:
    cut = pair.num_cut(prompts)
    return (
        [f"{cut} of {len(prompts)} prompts were longer than {pair.num_tokens} tokens and were cut"]
        if cut
        else []
    )


def _scores(tools: Tools, per_clip: list[float] | list[float | None], *read: str) -> Scores:
    pair = network(tools)
    notes = [note for field in read for note in cut_note(pair, list(tools.clips.given(field)))]
    return Scores(per_clip=per_clip, resize=pair.resize, notes=notes)


def _direction(change: np.ndarray, wanted: np.ndarray) -> float | None:
    """``change`` f d, ``wanted`` d."""
    length = np.linalg.norm(wanted)
    if length < _STILL:
        return None
    lengths = np.linalg.norm(change, axis=-1)
    return float(
        np.where(lengths < _STILL, 0, change @ wanted / np.maximum(lengths * length, _STILL**2)).mean()
    )
