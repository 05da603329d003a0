"""The slow path: attention whose probabilities are seen and changed, a few frames or heads at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vgen.attention.control import MapEdit, Maps
from vgen.attention.sites import AttentionSite
from vgen.diffusion.moment import Moment


def probabilities(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """``... n d`` and ``... k d`` to ``... n k``, softmax in float32 at least."""
    scores = scale * q @ k.transpose(-1, -2)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    """``... n (m d) -> ... m n d``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def chunks(num_frames: int, num_heads: int, bytes_each: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Frame and head ranges whose maps fit the budget (one head of one frame at least); ``bytes_each`` is one
    head of one frame."""
    at_once = max(1, budget // bytes_each)
    per_frame = min(num_heads, at_once)
    frames = max(1, at_once // num_heads)
    for f in range(0, num_frames, frames):
        for m in range(0, num_heads, per_frame):
            yield slice(f, min(f + frames, num_frames)), slice(m, min(m + per_frame, num_heads))


def attend_with_maps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    scale: float,
    edits: Sequence[MapEdit],
    site: AttentionSite,
    moment: Moment,
    budget: int,
) -> Tensor:
    """``q`` b f n c, ``k v`` b f s c or b 1 s c; returns ``b f n c``."""
    q, k, v = (heads_of(x, num_heads) for x in (q, k, v))  # b f m n d
    batch, num_frames, _, n, _ = q.shape
    out = torch.empty_like(q)
    for fs, ms in chunks(num_frames, num_heads, 4 * batch * n * k.shape[-2], budget):
        kf = fs if k.shape[1] > 1 else slice(0, 1)
        values = moment.rows.split(probabilities(q[:, fs, ms], k[:, kf, ms], scale))
        for edit in edits:
            values = edit(Maps(values, site, moment, fs, ms))
        out[:, fs, ms] = values.flatten(0, 1).to(v.dtype) @ v[:, kf, ms]
    return out.transpose(2, 3).flatten(3)
