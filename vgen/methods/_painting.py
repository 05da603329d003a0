"""Losses of a layer painted over a picture, as CLIP sees them (Text2LIVE, Bar-Tal et al. 2022, section 3.2),
and the layer upon a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vgen.backbones.augmentation import input_view, sized, views
from vgen.backbones.clip import ClipPair, load_clip_pair
from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.layers.edit_layer import EditLayer, before_screen, composed
from vgen.methods._objectives import Objective
from vgen.methods._rendering import as_bytes
from vgen.methods._video_model import VideoModel
from vgen.resources import data_dir

TOYBOX = "toybox"
SAYINGS = (
    "photo of {}.",
    "high quality photo of {}.",
    "a photo of {}.",
    "the photo of {}.",
    "image of {}.",
    "an image of {}.",
    "high quality image of {}.",
    "a high quality image of {}.",
    "the {}.",
    "a {}.",
    "{}.",
    "{}",
    "{}!",
    "{}...",
)
SCREEN_SAYINGS = ("{} over a green screen.", "{} in front of a green screen.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each loss counts."""

    structure: float
    screen: float
    composition: float
    sparsity_l1: float
    sparsity_l0: float
    bootstrap: float


@dataclass(kw_only=True)
class Painting(Objective):
    """The picture with the layer should be called ``target`` and lie from the picture as the words do, the
    layer before a green screen ``layer``; patches keep their likeness to each other, and little is painted.
    Each loss sees ``num_views`` views of a piece of at least ``least_piece``, and of the whole picture every
    ``whole_every`` steps. In the first ``bootstrap_steps`` the opacity is drawn, less and less, to where CLIP
    finds ``place``. ``clip`` is a folder."""

    target: str
    layer: str
    place: str
    clip: str
    weights: Weights
    num_views: int
    least_piece: float
    whole_every: int
    bootstrap_steps: int

    def __post_init__(self) -> None:
        self._clip: ClipPair | None = None
        self._texts: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        self._step = 0

    def begin(self, model: ImageModel) -> None:
        if not self.target.strip():
            raise ValueError(
                'nothing says what the picture is to show; give method.target="what it should show"'
            )
        self.pair()

    def pair(self) -> ClipPair:
        """The CLIP pair, opened once."""
        if self._clip is None:
            folder = data_dir() / TOYBOX if self.clip == TOYBOX else Path(self.clip).expanduser()
            self._clip = load_clip_pair(folder, "method.clip")
        return self._clip

    def enter(self, step: int, num_steps: int) -> None:
        self._step = step

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        net, device = cast(EditLayer, video_model.modules["edit_layer"]), video_model.device
        source = _said(batch)
        frames = (batch.pixels(device)[0] + 1) / 2
        cpu = torch.device("cpu")
        frame = frames[int(draws.integers("frame", len(frames), cpu)[0])]
        draw = Generator().manual_seed(int(draws.integers("views", 2**31, cpu)[0]))
        pictures = [input_view(frame, self.least_piece, draw)]
        if self._step % self.whole_every == 0:
            pictures.append(frame)
        pair = self.pair().to(device)
        seen = [self._of_picture(pair, net, picture, source, draw) for picture in pictures]
        parts = {name: torch.stack([one[name] for one in seen]).mean() for name in seen[0]}
        w = self.weights
        loss = w.composition * (parts["composition"] + parts["direction"]) + w.screen * parts["screen"]
        loss = loss + w.structure * parts["structure"]
        if "bootstrap" in parts:
            left = 1 - (self._step + 1) / self.bootstrap_steps
            loss = loss + w.bootstrap * left * parts["bootstrap"]
        return {"loss": loss + w.sparsity_l1 * parts["l1"] + w.sparsity_l0 * parts["l0"], **parts}

    def _of_picture(
        self, pair: ClipPair, net: EditLayer, picture: Tensor, source: str, draw: Generator
    ) -> dict[str, Tensor]:
        """Every loss of one picture 3 h w."""
        colours, opacity = (x[0] for x in net(picture[None]))
        painted, screened = composed(colours, opacity, picture), before_screen(colours, opacity)

        def embedded(pixels: Tensor) -> Tensor:
            return pair.pictures(views(pixels, self.num_views, pair.size_px, draw))

        after, before = (self._told(pair, words, SAYINGS) for words in (self.target, source))
        held = self._told(pair, self.layer, SCREEN_SAYINGS)
        some, others = (_chosen(len(SAYINGS), draw) for _ in range(2))
        with torch.no_grad():
            kept, plain = likeness(pair.patches(picture[None])), embedded(picture)
        parts = {"bootstrap": self._misplaced(pair, opacity, picture)} if self._bootstraps() else {}
        return parts | {
            "composition": distance(embedded(painted), after[some]),
            "direction": turned_away(embedded(painted) - plain, (after - before)[others]),
            "screen": distance(embedded(screened), held[_chosen(len(held), draw)]),
            "structure": F.mse_loss(likeness(pair.patches(painted[None])), kept),
            "l1": opacity.mean(),
            "l0": nearly_count(opacity),
        }

    def _bootstraps(self) -> bool:
        return bool(self.place) and self._step < self.bootstrap_steps

    def _misplaced(self, pair: ClipPair, opacity: Tensor, picture: Tensor) -> Tensor:
        """Mean squared difference of the opacity 1 h w and of where CLIP finds the place (section 3.2,
        initial localisation)."""
        words = self._told(pair, self.place, ("{}",))[0]
        found = pair.relevance(picture[None], words)
        return F.mse_loss(sized(opacity, pair.size_px), found)

    def _told(self, pair: ClipPair, words: str, sayings: tuple[str, ...]) -> Tensor:
        """Embeddings of the words in every saying, m d."""
        key = (words, sayings)
        if key not in self._texts:
            self._texts[key] = pair.texts([saying.format(words) for saying in sayings])
        return self._texts[key].to(pair.text.device)


def _said(batch: Batch) -> str:
    """What the picture shows. Raises ValueError where nobody says it, and for several clips."""
    if len(batch) != 1:
        raise ValueError(
            f"a layer is painted over one clip, and a batch has {len(batch)}; set data.batch_size=1"
        )
    if not batch.captions[0].strip():
        raise ValueError('nothing says what the picture shows; give data.prompt="what it shows"')
    return batch.captions[0]


def _chosen(num: int, draw: Generator) -> list[int]:
    """From one to ``num`` of so many, some of them perhaps twice."""
    count = int(torch.randint(1, num + 1, (1,), generator=draw))
    return torch.randint(num, (count,), generator=draw).tolist()


def distance(pictures: Tensor, texts: Tensor) -> Tensor:
    """Squared angle between every picture n d and every text m d on the sphere, halved, on average (equation
    3, as Crowson et al. 2022 measure it)."""
    pictures, texts = F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1)
    chords = (pictures[:, None] - texts).norm(dim=-1)
    return (2 * (chords / 2).arcsin().square()).mean()


def turned_away(ways: Tensor, wanted: Tensor) -> Tensor:
    """One less the cosine of every way n d and every wanted way m d, on average (equation 4)."""
    return 1 - F.cosine_similarity(ways[:, None], wanted, dim=-1).mean()


def likeness(patches: Tensor) -> Tensor:
    """Cosines of all patches with each other, n p p, of ``patches`` n p d (equation 6)."""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.mT


def nearly_count(opacity: Tensor) -> Tensor:
    """About the share of pixels that are painted (equation 7)."""
    return ((5 * opacity).sigmoid() * 2 - 1).mean()


# -- showing -------------------------------------------------------------------------------------------------
@torch.no_grad()
def painted(net: EditLayer, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clip uint8 f h w 3 with the layer upon it, frame by frame, and the first frame's layer with its
    opacity, uint8 h w 4."""
    device = next(net.parameters()).device
    frames: list[Tensor] = []
    layers: list[Tensor] = []
    for frame in torch.tensor(clip, device=device).permute(0, 3, 1, 2).float() / 255:
        colours, opacity = net(frame[None])
        frames.append(composed(colours, opacity, frame)[0])
        layers = layers or [torch.cat([colours, opacity], 1)[0]]
    return as_bytes(torch.stack(frames)), as_bytes(layers[0])
