"""Whose keys and values an attention reads: one operator with another list of frames for every cross-frame
method."""

from __future__ import annotations

import torch
from torch import Tensor

from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.diffusion.frames import Role
from vgen.diffusion.moment import Direction, Moment
from vgen.diffusion.step_window import StepWindow
from vgen.spec import Choice, field, spec


class Frame(Choice):
    """A frame as seen from the one whose queries ask; ``previous`` and ``next`` stop at the ends of the
    clip."""

    SELF = "self"
    FIRST = "first"
    MIDDLE = "middle"
    LAST = "last"
    PREVIOUS = "previous"
    NEXT = "next"
    ALL = "all"


@spec
class FrameKeys:
    """Keys and values are those of ``frames``, of the frames numbered ``key_frames`` and of the stores named
    ``references``, end to end.

    Without ``self`` they substitute the frame's own. ``rows_from`` names the branch whose keys and values
    every branch reads (MasaCtrl, Cao et al. 2023, eq. 4), with ``beside_own`` end to end with its own (the
    released code's union). Inside ``window``, in the given ``directions`` and passes of the frame schedule
    (``roles``; none: all), at self-attentions that ``where`` accepts.
    """

    frames: list[Frame] = field(default_factory=lambda: [Frame.SELF])
    key_frames: list[int] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    rows_from: str = ""
    beside_own: bool = False
    where: AttentionWhere = field(default_factory=AttentionWhere)
    window: StepWindow = field(default_factory=StepWindow)
    directions: list[Direction] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not (self.frames or self.key_frames or self.references):
            raise ValueError(
                "frame keys name no source; give frames=[first,previous], key_frames=[0] or references=[NAME]"
            )
        if self.beside_own and not self.rows_from:
            raise ValueError(
                "beside_own puts another branch's keys beside a row's own and needs the branch; give "
                "rows_from=source"
            )
        if Frame.ALL in self.frames and (len(self.frames) > 1 or self.key_frames):
            raise ValueError(
                f"frames=[all] already holds every frame, got {[f.value for f in self.frames]} with "
                f"key_frames={self.key_frames}; "
                "drop the others"
            )

    def acts(self, site: AttentionSite, moment: Moment | None) -> bool:
        if site.kind is not AttentionKind.SELF or not self.where(site):
            return False
        if moment is None:  # training: every step, no direction, the whole clip
            return not self.roles or Role.WHOLE in self.roles
        directed = not self.directions or moment.direction in self.directions
        meant = not self.roles or moment.role in self.roles
        return directed and meant and self.window.holds(moment.step, moment.num_steps)

    @property
    def plain(self) -> bool:
        return self.frames == [Frame.SELF] and not (self.key_frames or self.references or self.rows_from)

    @property
    def folds(self) -> bool:
        """Whether queries of all frames read one set of keys: then frames join the query axis, and keys are
        copied for nobody."""
        return self.frames == [Frame.ALL]

    def indices(self, num_frames: int, device: torch.device | None = None) -> Tensor:
        """``f s`` int64: the frames read by each frame."""
        own = torch.arange(num_frames, device=device)
        table = {
            Frame.SELF: own,
            Frame.FIRST: own * 0,
            Frame.MIDDLE: own * 0 + (num_frames - 1) // 2,
            Frame.LAST: own * 0 + num_frames - 1,
            Frame.PREVIOUS: (own - 1).clamp(min=0),
            Frame.NEXT: (own + 1).clamp(max=num_frames - 1),
        }
        if any(not 0 <= k < num_frames for k in self.key_frames):
            raise ValueError(
                f"key_frames must lie in 0..{num_frames - 1} for a clip of {num_frames} frames, got "
                f"{self.key_frames}"
            )
        columns = [table[f] for f in self.frames] + [own * 0 + k for k in self.key_frames]
        return torch.stack(columns, 1) if columns else own[:, None][:, :0]


def gathered(x: Tensor, keys: FrameKeys, moment: Moment | None) -> Tensor:
    """Keys or values ``b f n c`` to what each frame reads: ``b f (s n) c``, or ``b 1 (f n) c`` where
    ``keys.folds``; twice as many tokens with ``keys.beside_own``."""
    if keys.rows_from:
        if moment is None:
            raise ValueError(
                f"rows_from={keys.rows_from!r} needs a run with branches; in training there is one row per "
                "clip"
            )
        other = moment.rows.of_branch(x, keys.rows_from)
        return (
            torch.cat([_of_frames(x, keys), _of_frames(other, keys)], 2)
            if keys.beside_own
            else _of_frames(other, keys)
        )
    return _of_frames(x, keys)


def _of_frames(x: Tensor, keys: FrameKeys) -> Tensor:
    if keys.folds:
        return x.flatten(1, 2)[:, None]
    return x[:, keys.indices(x.shape[1], x.device)].flatten(2, 3)
