"""A clip as one picture and the way each frame is bent onto it (CoDeF, Ouyang et al. 2023, section 3): fields
that give colours of canonical points, and canonical points of a frame's points.

Points are (row, column) in shares of the frame's height and width, so that the frame is 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgen.layers.hash_grid import HashGrid, HashGridSpec
from vgen.spec import Choice, field, spec

ROOM = 0.3
"""The canonical hash field holds so much of the frame's side beyond each edge."""
BEND = 5.0
"""Outputs of the deformation's hash field are divided by this."""
FREQUENCIES = 8
FRAME_FEATURES = 8


class FieldKind(Choice):
    """``hash`` is the paper's; ``fourier`` its comparison, with an embedding per frame."""

    HASH = "hash"
    FOURIER = "fourier"


@spec
class VideoFieldSpec:
    """``num_groups`` pairs of fields, one per group of pixels that moves by itself. ``deformation`` and
    ``canonical`` are hash grids, read by ``deformation_layers`` and ``canonical_layers`` of ``width``.
    Fourier fields have the paper's widths, and an embedding for each of ``most_frames``."""

    kind: FieldKind = FieldKind.HASH
    num_groups: int = 1
    deformation: HashGridSpec = field(default_factory=HashGridSpec)
    canonical: HashGridSpec = field(default_factory=lambda: HashGridSpec(growth=1.44))
    width: int = 64
    deformation_layers: int = 8
    canonical_layers: int = 2
    most_frames: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.num_groups <= 255:
            raise ValueError(f"num_groups lies in 1..255, got {self.num_groups}; 1 needs no masks")
        if min(self.width, self.deformation_layers, self.canonical_layers, self.most_frames) < 1:
            raise ValueError(
                "width, deformation_layers, canonical_layers and most_frames must be at least 1, got "
                f"{self.width}, {self.deformation_layers}, {self.canonical_layers} and {self.most_frames}"
            )

    @property
    def num_levels(self) -> int:
        """Levels of the deformation, which are annealed."""
        return self.deformation.num_levels if self.kind is FieldKind.HASH else FREQUENCIES


@dataclass(frozen=True, slots=True)
class Instant:
    """The frame ``index`` of ``num_frames``, counted from 0."""

    index: int
    num_frames: int

    @property
    def time(self) -> float:
        """Above 0, 1 at the last frame."""
        return (self.index + 1) / self.num_frames


class VideoField(nn.Module):
    """Pairs of a deformation and a canonical field, one per group."""

    def __init__(self, spec: VideoFieldSpec) -> None:
        super().__init__()
        self.spec = spec
        bends, shows = (
            (HashDeformation, HashCanonical)
            if spec.kind is FieldKind.HASH
            else (FourierDeformation, FourierCanonical)
        )
        self.deformations = nn.ModuleList(bends(spec) for _ in range(spec.num_groups))
        self.canonicals = nn.ModuleList(shows(spec) for _ in range(spec.num_groups))

    def forward(self, points: Tensor, at: Instant, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Canonical points g n 2 and colours g n 3 (about 0 to 1) of a frame's ``points`` n 2; ``weights``
        say how loud the deformation's levels are."""
        bent = self.bent(points, at, weights)
        return bent, torch.stack([self.colours(one, group) for group, one in enumerate(bent)])

    def bent(self, points: Tensor, at: Instant, weights: Tensor | None = None) -> Tensor:
        """Canonical points g n 2. In float32 even under autocast: half precision is a tenth of a pixel."""
        with torch.autocast(points.device.type, enabled=False):
            return torch.stack([points + bend(points, at, weights) for bend in self.deformations])

    def colours(self, canonical: Tensor, group: int) -> Tensor:
        """Colours n 3 of canonical points n 2 of a group."""
        with torch.autocast(canonical.device.type, enabled=False):
            return self.canonicals[group](canonical)


class HashDeformation(nn.Module):
    """Points n 2 at a time to steps n 2 (section 3.2)."""

    def __init__(self, spec: VideoFieldSpec) -> None:
        super().__init__()
        self.grid = HashGrid(spec.deformation, 3)
        self.net = plain_net(3 + self.grid.num_features, spec.width, spec.deformation_layers, 2)

    def forward(self, points: Tensor, at: Instant, weights: Tensor | None = None) -> Tensor:
        place = torch.cat([points, torch.full_like(points[:, :1], at.time)], -1)
        return self.net(torch.cat([place, self.grid(place, weights)], -1)) / BEND


class HashCanonical(nn.Module):
    """Canonical points n 2 to colours n 3 (section 3.1)."""

    def __init__(self, spec: VideoFieldSpec) -> None:
        super().__init__()
        self.grid = HashGrid(spec.canonical, 2)
        self.net = plain_net(2 + self.grid.num_features, spec.width, spec.canonical_layers, 3)

    def forward(self, points: Tensor) -> Tensor:
        place = (points + ROOM) / (1 + 2 * ROOM)
        return self.net(torch.cat([place, self.grid(place)], -1))


def plain_net(taken: int, width: int, hidden: int, given: int) -> nn.Sequential:
    """Layers without biases, a ReLU behind each but the last, as tiny-cuda-nn's."""
    sides = [taken, *[width] * hidden, given]
    layers: list[nn.Module] = []
    for before, after in pairwise(sides):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
        nn.init.xavier_uniform_(layers[-2].weight)  # type: ignore[arg-type]  # a Linear's
    return nn.Sequential(*layers[:-1])


class FourierDeformation(nn.Module):
    """An embedding of the frame, and waves of the point, to steps n 2; a new one hardly bends."""

    def __init__(self, spec: VideoFieldSpec) -> None:
        super().__init__()
        self.frames = nn.Embedding(spec.most_frames, FRAME_FEATURES)
        nn.init.uniform_(self.frames.weight, -0.05, 0.05)
        self.net = SkipNet(num_waves(2) + FRAME_FEATURES, 128, hidden=6, given=2)
        nn.init.uniform_(self.net.last.weight, -1e-4, 1e-4)

    def forward(self, points: Tensor, at: Instant, weights: Tensor | None = None) -> Tensor:
        if at.index >= self.frames.num_embeddings:
            raise ValueError(
                f"frame {at.index + 1} of {at.num_frames} has no embedding; raise "
                f"method.field.most_frames={self.frames.num_embeddings}"
            )
        frame = self.frames.weight[at.index].expand(len(points), -1)
        return self.net(torch.cat([frame, waves(points, weights)], -1))


class FourierCanonical(nn.Module):
    """Waves of canonical points to colours n 3."""

    def __init__(self, spec: VideoFieldSpec) -> None:
        super().__init__()
        self.net = SkipNet(num_waves(2), 256, hidden=8, given=256)
        self.colours = nn.Linear(256, 3)
        nn.init.xavier_uniform_(self.colours.weight)
        nn.init.zeros_(self.colours.bias)

    def forward(self, points: Tensor) -> Tensor:
        return self.colours(self.net(waves(points))).sigmoid()


class SkipNet(nn.Module):
    """ReLU layers, of which the fifth sees the input again (NeRF, Mildenhall et al. 2020, figure 7)."""

    AGAIN = 4

    def __init__(self, taken: int, width: int, hidden: int, given: int) -> None:
        super().__init__()
        sides = [taken] + [width + taken * (i == self.AGAIN) for i in range(1, hidden)]
        self.hidden = nn.ModuleList(nn.Linear(side, width) for side in sides)
        self.last = nn.Linear(width, given)
        for layer in (*self.hidden, self.last):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i, layer in enumerate(self.hidden):
            seen = torch.cat([x, out], -1) if i == self.AGAIN else out
            out = layer(seen).relu()
        return self.last(out)


def num_waves(dims: int) -> int:
    """Features that :func:`waves` gives."""
    return dims * (1 + 2 * FREQUENCIES)


def waves(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """``x`` n d, and its sines and cosines at frequencies 1, 2, 4, ...: n (d + 2 d frequencies). ``weights``
    say how loud each frequency is."""
    out = [x]
    for level in range(FREQUENCIES):
        loud = 1.0 if weights is None else weights[level]
        out += [loud * (2**level * x).sin(), loud * (2**level * x).cos()]
    return torch.cat(out, -1)


def pixel_points(height: int, width: int, border: int = 0, device: torch.device | None = None) -> Tensor:
    """Points n 2 of a frame's pixels, and of ``border`` pixels beyond each edge, row by row."""
    rows = torch.arange(-border, height + border, device=device) / height
    columns = torch.arange(-border, width + border, device=device) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)


def read_at(picture: Tensor, points: Tensor, size: tuple[int, int], border: int) -> Tensor:
    """Colours n c of a canonical ``picture`` c H W at canonical ``points`` n 2, bilinear; beyond its edges
    the edge's. ``size`` and ``border`` are those of the frame in the canonical picture as it was given out;
    ``picture`` may be finer."""
    sides = torch.tensor(size, device=points.device)
    place = 2 * (points * sides + border + 0.5) / (sides + 2 * border) - 1
    at = place.flip(-1)[None, None]
    read = F.grid_sample(picture[None], at, "bilinear", "border", align_corners=False)
    return read[0, :, 0].T
