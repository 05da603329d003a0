"""``vgen prepare data=pairs``: an image model draws pictures before and after an edit, CLIP keeps the good
ones (Brooks et al. 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgen.app.caption_pairs import CaptionPair, by_rule, of_file
from vgen.app.loading import TOYBOX, load_backbone
from vgen.data.clip_files import to_uint8
from vgen.data.decode import Cut
from vgen.data.ledger import Reason, Rejected, Rejection
from vgen.data.sample import Sample, Video
from vgen.data.sources import Job, Source
from vgen.methods import Recipe, VideoModel, assemble
from vgen.methods._pairs import PairDraw, draw_pair
from vgen.metrics.learned.clip_model import ClipModel, load_clip
from vgen.metrics.learned.weights import Located
from vgen.resources import data_dir
from vgen.spec import field, spec
from vgen.toybox.sampling import rng_of

_STILL = 1e-6  # a difference of unit vectors shorter than this has no direction


@spec
class PairFilter:
    """The least cosines of CLIP that a pair needs: of each picture and its words (``text``), of what changed
    in pictures and in words (``direction``), of the two pictures (``image``). At most ``keep`` of a caption
    pair's candidates stay, those of the best direction."""

    text: float = 0.2
    direction: float = 0.2
    image: float = 0.7
    keep: int = 4

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"data.filter.keep must be 1 or more, got {self.keep}; the paper's is 4")
        for name in ("text", "direction", "image"):
            if not -1 <= getattr(self, name) <= 1:
                raise ValueError(f"data.filter.{name} is a cosine, -1 to 1, got {getattr(self, name)}")

    def passes(self, found: dict[str, float]) -> bool:
        """Whether a pair's cosines reach all of them."""
        return all(found[name] >= getattr(self, name) for name in ("text", "direction", "image"))


@spec
class DrawnPairs(Source):
    """``path`` names a .jsonl, .csv, .tsv or .parquet of caption pairs (columns input, edit, output); without
    it ``num_pairs`` come by the toybox's rule. Each is drawn ``num_samples`` times, with a share of the
    steps in common and a guidance drawn from their ranges. ``clip`` is a CLIP folder; empty: the image
    model's own pair."""

    path: str | None = None
    num_pairs: int = 256
    seed: int = 0
    backbone: str = TOYBOX
    clip: str = ""
    num_samples: int = 100
    num_steps: int = 100
    share: list[float] = field(default_factory=lambda: [0.1, 0.9])
    guidance: list[float] = field(default_factory=lambda: [7.5, 15.0])
    filter: PairFilter = field(default_factory=PairFilter)

    def __post_init__(self) -> None:
        if min(self.num_pairs, self.num_samples, self.num_steps) < 1:
            raise ValueError(
                "pairs need num_pairs, num_samples and num_steps of at least 1, got "
                f"{self.num_pairs}, {self.num_samples} and {self.num_steps}"
            )
        for name in ("share", "guidance"):
            low, high = getattr(self, name) if len(getattr(self, name)) == 2 else (1, 0)
            if not 0 <= low <= high:
                raise ValueError(f"data.{name} is a range as [0.1, 0.9], got {getattr(self, name)}")

    def name(self) -> str:
        return "pairs" if self.path is None else f"{Path(self.path).stem}-pairs"

    def usual(self) -> tuple[int, Video]:
        return (64, Video.npy) if self.backbone == TOYBOX else (512, Video.mp4)

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        load_clip(Located(clip_folder(self), ""), "cpu", "data.clip")  # refuses what is none
        listed = None if self.path is None else of_file(Path(self.path).expanduser())
        pairs = by_rule(self.num_pairs, self.seed) if listed is None else listed
        return [self._job(row, pair, cut) for row, pair in enumerate(pairs)]

    def _job(self, row: int, pair: CaptionPair, cut: Cut) -> Job | Rejection:
        where: dict[str, Any] = {
            "row": row,
            "key": f"pair-{row:08d}",
            "source": pair.instruction[:80] or f"pair {row + 1}",
        }
        if pair.lacking:
            detail = f"column {', '.join(pair.lacking)} is empty"
            return Rejection(**where, reason=Reason.BAD_ROW, detail=detail)
        return PairJob(**where, pair=pair, how=self, cut=cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJob(Job):
    """One caption pair and its candidates; a sample's caption is the instruction."""

    pair: CaptionPair
    how: DrawnPairs
    cut: Cut

    def samples(self, scratch: Path) -> Iterator[Sample]:
        drawn = [self._candidate(number) for number in range(self.how.num_samples)]
        wanted = self.how.filter
        good = [one for one in drawn if wanted.passes(one[1])]
        if not good:
            nearest = max(drawn, key=lambda one: one[1]["direction"])[1]
            said = ", ".join(f"{name} {value:.2f}" for name, value in nearest.items() if name != "seed")
            raise Rejected(Reason.FILTERED, f"none of {len(drawn)} candidates passes, the nearest has {said}")
        good.sort(key=lambda one: -one[1]["direction"])
        for place, (pictures, found) in enumerate(good[: wanted.keep]):
            facts = {
                "fps": self.cut.fps,
                "num_frames": 1,
                "source_caption": self.pair.source,
                "target_caption": self.pair.target,
                "instruction": self.pair.instruction,
                **found,
            }
            before, after = pictures[:1], pictures[1:]
            yield Sample(f"{self.key}-{place}", after, self.pair.instruction, facts, {"source": before})

    def _candidate(self, number: int) -> tuple[np.ndarray, dict[str, float]]:
        """uint8 2 h w 3, and what was drawn and found."""
        how, rng = self.how, rng_of(self.how.seed, self.row, number, 7)
        draw = PairDraw(
            seed=int(rng.integers(2**31)),
            share=float(rng.uniform(how.share[0], how.share[1])),
            guidance=float(rng.uniform(how.guidance[0], how.guidance[1])),
            num_steps=how.num_steps,
            size_px=self.cut.size_px,
        )
        pixels = draw_pair(artist(how.backbone), self.pair.source, self.pair.target, draw)
        pictures = to_uint8(pixels)
        found = cosines(judge(clip_folder(how)), pictures, [self.pair.source, self.pair.target])
        return pictures, {"share": draw.share, "guidance": draw.guidance, "seed": draw.seed, **found}


def cosines(clip: ClipModel, pictures: np.ndarray, words: list[str]) -> dict[str, float]:
    """``text``: the lower of both pictures with their words; ``direction``; ``image``."""
    images, texts = clip.images(pictures, 2), clip.texts(words)
    moved, said = images[1] - images[0], texts[1] - texts[0]
    size = np.linalg.norm(moved) * np.linalg.norm(said)
    return {
        "text": float((images * texts).sum(1).min()),
        "direction": float(moved @ said / size) if size > _STILL**2 else 0.0,
        "image": float(images[0] @ images[1]),
    }


def clip_folder(how: DrawnPairs) -> Path:
    """Where the judge lies."""
    named = how.clip or how.backbone
    return data_dir() / TOYBOX if named == TOYBOX else Path(named).expanduser()


@cache
def artist(backbone: str) -> VideoModel:
    """The image model, once per process."""
    model = load_backbone(backbone)
    return assemble(Recipe(), model).to(_device())


@cache
def judge(folder: Path) -> ClipModel:
    """CLIP, once per process."""
    return load_clip(Located(folder, ""), _device(), "data.clip")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
