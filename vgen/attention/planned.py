"""Attention at a site where something else than plain attention happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vgen.attention.control import Control, Given, Plan, Seen, Swapped
from vgen.attention.keys import FrameKeys, gathered
from vgen.attention.maps import attend_with_maps, heads_of
from vgen.attention.sites import AttentionSite
from vgen.backbones.attend import attend


@dataclass(frozen=True, slots=True)
class Kernel:
    """How the net itself attends: ``fused`` takes q b f n c and k v b f s c (or b 1 s c) to b f n c."""

    heads: int
    scale: float
    fused: Callable[[Tensor, Tensor, Tensor], Tensor]


def attended(control: Control, site: AttentionSite, plan: Plan, seen: Seen, kernel: Kernel) -> Tensor:
    """What ``plan`` makes of the projections: ``b f n c``, before ``to_out``."""
    for recorder in plan.recorders:
        recorder.record(site, control.now, seen)
    q, k, v = seen.q, seen.k, seen.v
    if plan.keys is not None:
        k, v = _read(control, site, plan.keys, k, v)
    if plan.given:
        given = [one for edit in plan.given for one in edit(site, control.now, q, k, v, plan.keys)]
        return _with_given(q, k, v, given, kernel, control.chunk_bytes)
    swaps = [found for swap in plan.swaps if (found := swap(site, control.now, q, k)) is not None]
    own = [_own(s, q, k, v, kernel) for s in swaps]
    for s in swaps:
        q, k = q.clone(), k.clone()
        q[s.row], k[s.row] = s.q, s.k
    if plan.maps:
        out = attend_with_maps(
            q, k, v, kernel.heads, kernel.scale, plan.maps, site, control.now, control.chunk_bytes
        )
    else:
        out = kernel.fused(q, k, v)
    for s, kept in zip(swaps, own, strict=True):
        if kept is not None and s.inside is not None:
            out[s.row] = torch.where(s.inside[..., None], kept, out[s.row])
    return out


def _own(swapped: Swapped, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor | None:
    """The row's output without the swap, ``f n c``, where part of it is kept."""
    if swapped.inside is None:
        return None
    row = slice(swapped.row, swapped.row + 1)
    return kernel.fused(q[row], k[row], v[row])[0]


def _read(
    control: Control, site: AttentionSite, keys: FrameKeys, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values ``b f s c``, or ``b 1 s c`` where all frames read the same."""
    k, v = (gathered(x, keys, control.moment) for x in (k, v))
    for name in keys.references:
        if name not in control.references:
            raise ValueError(
                f"attention keys name the reference {name!r}, but the run has "
                f"{', '.join(control.references) or 'none'}"
            )
        more = control.references[name].keys_values(site, control.now)
        k, v = (
            torch.cat([x, y[:, None].to(x).expand(len(x), x.shape[1], -1, -1)], 2)
            for x, y in zip((k, v), more, strict=True)
        )
    return k, v


def _with_given(
    q: Tensor, k: Tensor, v: Tensor, given: Sequence[Given], kernel: Kernel, budget: int
) -> Tensor:
    """Rows that are given keys and values attend to those, the others to their own."""
    taken = {one.row for one in given}
    rest = [row for row in range(len(q)) if row not in taken]
    out = torch.empty_like(q)
    if rest:
        out[rest] = kernel.fused(q[rest], k[rest], v[rest])
    for one in given:
        if one.sides is None:
            out[one.row] = kernel.fused(q[one.row, None], one.k[None], one.v[None])[0]
        else:
            out[one.row] = _by_sides(q[one.row], one.k, one.v, one.sides, kernel, budget)
    return out


def _by_sides(
    q: Tensor, k: Tensor, v: Tensor, sides: tuple[Tensor, Tensor], kernel: Kernel, budget: int
) -> Tensor:
    """``f n c`` queries over ``f s c`` (or 1 s c) keys of their own side; a few frames at a time, since a
    mask is a map large."""
    (num_frames, n, _), s = q.shape, k.shape[1]
    at_once, out = max(1, budget // (4 * n * s)), torch.empty_like(q)
    asking, asked = (side.to(q.device) for side in sides)  # f n, f s
    for first in range(0, num_frames, at_once):
        fs = slice(first, first + at_once)
        kf = fs if len(k) > 1 else slice(0, 1)
        may = asking[fs, :, None] == asked[kf, None]  # f n s
        may |= ~may.any(-1, keepdim=True)
        parts = [heads_of(x, kernel.heads) for x in (q[fs], k[kf], v[kf])]  # f m n d
        if len(parts[1]) < len(parts[0]):
            parts[1:] = [x.expand(len(parts[0]), -1, -1, -1) for x in parts[1:]]
        found = attend(parts[0], parts[1], parts[2], may[:, None], kernel.scale)
        out[fs] = found.transpose(1, 2).flatten(2)
    return out
