"""Inserted attention over frames as sites of :class:`Control`, of kind TEMPORAL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import Tensor, nn

from vgen.attention.control import Control, Seen
from vgen.attention.planned import Kernel, attended
from vgen.attention.sites import AttentionKind, AttentionSite
from vgen.backbones.frame_attention import FrameAttending
from vgen.backbones.sites import sites
from vgen.backbones.video_unet import VideoUNet


@dataclass(slots=True)
class TemporalRoute:
    """Stands in for one attention over frames where ``control`` has a plan for it.

    Positions take the place of frames, and frames that of tokens: ``b p f c``.
    """

    site: AttentionSite
    control: Control

    @property
    def acts(self) -> bool:
        return self.site.path in self.control.plans

    def __call__(self, attention: FrameAttending, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plan, moment = self.control.plans[self.site.path], self.control.now
        clips = moment.rows.clips(hidden.shape[:-2].numel(), self.site.path)
        axes = (clips, -1, *hidden.shape[-2:])
        seen = Seen(*(x.reshape(axes) for x in (q, k, v, hidden)))
        scale = (hidden.shape[-1] // attention.heads) ** -0.5
        kernel = Kernel(
            attention.heads, scale, partial(_fused, attention=attention, leading=hidden.dim() - 2)
        )
        out = attention.to_out[0](attended(self.control, self.site, plan, seen, kernel))
        for edit in plan.outputs:
            out = edit(self.site, moment, out)
        return out.reshape(hidden.shape)


def _fused(q: Tensor, k: Tensor, v: Tensor, attention: FrameAttending, leading: int) -> Tensor:
    """``b p f c`` each, to the same; with as many leading axes as the layer itself uses, so that its
    kernel is the same."""
    if leading > 1:
        return attention.fused(q, k, v)
    return attention.fused(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, q.shape[:2])


def temporal_sites(video_unet: VideoUNet) -> list[AttentionSite]:
    """Every inserted attention over frames in the order of execution; ``path`` is that of the module within
    ``video_unet``."""
    return [site for site, _ in _temporal(video_unet)]


def route_inserted(video_unet: VideoUNet, control: Control) -> None:
    """Let ``control`` record and edit what attends over frames in ``video_unet``. Called again after an
    insertion, it takes in what is new."""
    for path in [path for path, site in control.sites.items() if site.kind is AttentionKind.TEMPORAL]:
        del control.sites[path]
    for site, attention in _temporal(video_unet):
        attention.router = TemporalRoute(site, control)
        control.sites[site.path] = site


def _temporal(video_unet: VideoUNet) -> Iterator[tuple[AttentionSite, FrameAttending]]:
    hosts = {site.path: (order, site) for order, site in enumerate(sites(video_unet.image_unet))}
    found = []
    for name, layer in video_unet.inserted.items():
        host = name.partition("@")[0].replace("/", ".")
        for inner, module in layer.named_modules():
            if not isinstance(module, FrameAttending):
                continue
            if host not in hosts:
                raise ValueError(
                    f"{type(module).__name__} attends over frames behind {host!r}, which is none of the "
                    f"{len(hosts)} sites of the image UNet; insert it at one that 'vgen sites' lists"
                )
            found.append((*hosts[host], ".".join(filter(None, ("inserted", name, inner))), module))
    found.sort(key=lambda entry: entry[0])
    for ordinal, (_, host_site, path, module) in enumerate(found):
        channels = cast(nn.Linear, module.to_out[0]).out_features
        site = AttentionSite(
            path,
            AttentionKind.TEMPORAL,
            host_site.stage,
            host_site.level,
            ordinal,
            channels,
            module.heads,
        )
        yield site, module
