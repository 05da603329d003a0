"""PickScore: what people who were shown two pictures for a prompt would pick."""

from __future__ import annotations

from vgen.metrics.learned.clip_model import ClipModel, load_clip
from vgen.metrics.learned.clip_scores import cut_note
from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Located, Slot
from vgen.metrics.metric import Metric

PICK = Slot(
    "pick",
    "the folder yuvalkirstain/PickScore_v1, with the tokenizer and processor of "
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K beside it",
)


@plugin(
    Metric("pick_score", 1, "the trained scale times the mean cosine of frames and prompt; about 20"),
    source="Kirstain et al. 2023; TGVE's and V2VBench's pick_score", needs=["prompts"], slots=[PICK],
)  # fmt: skip
def pick_score(tools: Tools) -> Scores:
    pair, prompts = tools.network(PICK, _load), list(tools.clips.given("prompts"))
    frames = tools.features("pick", "videos", lambda video: pair.images(video, tools.settings.batch_size))
    assert pair.scale is not None
    scores = [
        pair.scale * float((x @ text).mean()) for x, text in zip(frames, pair.texts(prompts), strict=True)
    ]
    return Scores(per_clip=scores, resize=pair.resize, notes=cut_note(pair, prompts))


def _load(located: Located, device: str) -> ClipModel:
    pair = load_clip(located, device, "pick")
    if pair.scale is None:
        raise ValueError(
            f"pick.path={located.path} must be a CLIPModel with its trained scale, got two encoders; get "
            "PickScore_v1"
        )
    return pair
