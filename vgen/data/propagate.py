"""From key frames to all frames: what lies between two keys is made of both, along the motion of the source
(Yang et al. 2023, Rerender A Video, section 4.2; Jamriska et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.warp import Motion, motion, moved
from vgen.data.blend_keys import Side, blended
from vgen.data.patch_match import Made, Matching, made_alike, positions
from vgen.spec import field, spec


@spec
class Propagation:
    """What guides the patches, by weight: ``colour`` and ``edges`` of the source, the frame made before it
    carried here (``before``), and the ``place`` in the key frame that motion says. ``gradients`` joins the
    two sides without seams."""

    colour: float = 6.0
    edges: float = 0.5
    before: float = 0.5
    place: float = 2.0
    matching: Matching = field(default_factory=Matching)
    gradients: bool = True

    def __post_init__(self) -> None:
        weights = (self.colour, self.edges, self.before, self.place)
        if min(weights) < 0 or not sum(weights):
            raise ValueError(
                "guides need weights of 0 or more, one of them above, got "
                f"{', '.join(f'{w:g}' for w in weights)}; 6, 0.5, 0.5 and 2 are usual"
            )


@dataclass(frozen=True, slots=True)
class Clip:
    """The source, f 3 H W in [0, 1], and the motion from each of its frames back to another by their
    numbers."""

    source: Tensor
    back: Callable[[int, int], Motion]


def propagated(
    source: Tensor,
    keys: Sequence[int],
    drawn: Tensor,
    settings: Propagation,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """All frames, f 3 H W in [-1, 1], of a ``source`` of that shape whose frames ``keys`` were ``drawn``, k 3
    H W; keys stay as they were drawn.

    Raises ValueError where the keys do not begin and end with the clip, or are of another size.
    """
    _refuse_unfit(source, keys, drawn)
    clip = Clip((source + 1) / 2, lambda at, to: motion(source[to], source[at]))
    out = torch.empty_like(source)
    out[list(keys)] = drawn.to(out)
    looks, between = (out + 1) / 2, len(source) - len(keys)
    for left, right in pairwise(keys):
        if right - left > 1:
            inner = list(range(left + 1, right))
            ways = [left, *inner], [right, *reversed(inner)]
            ahead, behind = (_carried(clip, looks[way[0]], way, settings) for way in ways)
            sides = [Side(a, b) for a, b in zip(ahead, reversed(behind), strict=True)]
            back = partial(_step_back, clip, inner)
            out[inner] = 2 * blended(sides, back, settings.gradients) - 1
        done = sum(1 for frame in range(right) if frame not in keys)
        told(done, between)
    return out


def _step_back(clip: Clip, frames: Sequence[int], i: int) -> Motion:
    """From the ``i``-th of some frames to the one before it."""
    return clip.back(frames[i], frames[i - 1])


def _refuse_unfit(source: Tensor, keys: Sequence[int], drawn: Tensor) -> None:
    last = len(source) - 1
    ordered = list(keys) == sorted(set(keys))
    if not keys or not ordered or (keys[0], keys[-1]) != (0, last):
        raise ValueError(
            f"key frames must run from 0 to {last}, the ends of the clip, got {list(keys)}; frames outside "
            "of two keys can't be made"
        )
    if tuple(drawn.shape) != (len(keys), *source.shape[1:]):
        raise ValueError(
            f"drawn key frames must be {len(keys)} of {tuple(source.shape[1:])}, as the clip's, got "
            f"{tuple(drawn.shape)}"
        )


def _carried(clip: Clip, look: Tensor, way: Sequence[int], settings: Propagation) -> list[Made]:
    """The frames of ``way`` but its first one, the key, whose ``look`` they take on, one after another."""
    place = torch.stack(positions(look[:2])).to(look)
    scale = torch.tensor(look.shape[1:]).to(look)[:, None, None]
    key, before, out = clip.source[way[0]], look, []
    for last, now in pairwise(way):
        step = clip.back(now, last)
        place = moved(place[None], step.flow, outside="border")[0]
        warped = moved(before[None], step.flow, outside="border")[0]
        guides = (
            (settings.colour, key, clip.source[now]),
            (settings.edges, edges(key), edges(clip.source[now])),
            (settings.before, look, warped),
            (settings.place, torch.stack(positions(look[:2])) / scale, place / scale),
        )
        source, target = (torch.cat([w**0.5 * pair[i] for w, *pair in guides]) for i in (0, 1))
        found = made_alike(look, source, target, place.round().long(), settings.matching, seed=now)
        before = found.picture
        out.append(found)
    return out


def edges(picture: Tensor) -> Tensor:
    """Brighter than the four pixels around, 3 H W in [0, 1]."""
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).to(picture)
    padded = F.pad(picture[:, None], [1] * 4, mode="reflect")
    return F.conv2d(padded, kernel[None, None])[:, 0].clamp(0, 1)
