"""A layer that is painted over a picture: colours and opacity from a U-Net of its own (Text2LIVE, Bar-Tal et
al. 2022, section 3.1; the net of Deep Image Prior, Ulyanov et al. 2018, appendix)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.spec import spec

DECORRELATED = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Roots of the correlation of colours in photographs, one row per colour (Olah et al. 2017, Feature
Visualization)."""
INVERSE_SCALE = 1.6
SCREEN = (0.0, 177 / 255, 64 / 255)
"""The green of a screen that a layer is held before."""


@spec
class EditLayerSpec:
    """``num_scales`` halvings of ``channels`` each, with ``skip_channels`` beside each of them."""

    num_scales: int = 7
    channels: int = 128
    skip_channels: int = 4

    def __post_init__(self) -> None:
        if min(self.num_scales, self.channels, self.skip_channels) < 1:
            raise ValueError(
                "an edit layer has at least 1 scale, channel and skip channel, got "
                f"num_scales={self.num_scales} channels={self.channels} skip_channels={self.skip_channels}"
            )


class EditLayer(nn.Module):
    """Pictures n 3 H W in [0, 1] to colours n 3 H W and opacity n 1 H W, both in [0, 1]. Norms take the
    statistics of the batch always, and keep none."""

    def __init__(self, spec: EditLayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scales = Scale(spec, 0)
        self.out = nn.Conv2d(spec.channels, 4, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        least = 2**self.spec.num_scales + 1
        if min(pictures.shape[-2:]) < least:
            height, width = pictures.shape[-2:]
            raise ValueError(
                f"a picture of {width} x {height} px is too small for "
                f"method.edit_layer.num_scales={self.spec.num_scales}, which needs {least}; lower it, or "
                "raise data.size_px"
            )
        found = self.out(self.scales(pictures))
        colours = torch.einsum("nchw,dc->ndhw", found[:, :3], colour_mixing().to(found))
        return colours.sigmoid(), found[:, 3:].sigmoid()


class Scale(nn.Module):
    """One level of the U-Net: half the size and what lies below, beside a thin skip, brought together."""

    def __init__(self, spec: EditLayerSpec, level: int) -> None:
        super().__init__()
        width, thin = spec.channels, spec.skip_channels
        taken = width if level else 3
        self.skip = _block(taken, thin, 1)
        self.down = nn.Sequential(_block(taken, width, 3, stride=2), _block(width, width, 3))
        self.below = Scale(spec, level + 1) if level + 1 < spec.num_scales else nn.Identity()
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.norm = _norm(thin + width)
        self.up = _block(thin + width, width, 3)
        self.point = _block(width, width, 1, normed=level > 0)

    def forward(self, x: Tensor) -> Tensor:
        skip, grown = self.skip(x), self.grow(self.below(self.down(x)))
        height, width = (min(a, b) for a, b in zip(skip.shape[-2:], grown.shape[-2:], strict=True))
        both = torch.cat([_middle(skip, height, width), _middle(grown, height, width)], 1)
        return self.point(self.up(self.norm(both)))


def _block(taken: int, given: int, side: int, stride: int = 1, normed: bool = True) -> nn.Sequential:
    convolution = nn.Conv2d(taken, given, side, stride, padding=side // 2, padding_mode="reflect")
    norms = [_norm(given)] if normed else []
    return nn.Sequential(convolution, *norms, nn.LeakyReLU(0.2))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _middle(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of ``x``: an odd size grows by one too many."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def colour_mixing() -> Tensor:
    """From decorrelated colours to red, green and blue, 3 3, each row a colour of the picture."""
    roots = torch.tensor(DECORRELATED) / torch.tensor([INVERSE_SCALE, 1.0, 1.0])
    return roots / roots.norm(dim=0).max()


def composed(colours: Tensor, opacity: Tensor, under: Tensor) -> Tensor:
    """The layer over ``under``: section 3.1, equation 1. Opacity 0 leaves it as it is."""
    return opacity * colours + (1 - opacity) * under


def before_screen(colours: Tensor, opacity: Tensor) -> Tensor:
    """The layer over a green screen."""
    return composed(colours, opacity, colours.new_tensor(SCREEN)[:, None, None])
