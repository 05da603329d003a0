"""Where a denoising run stands, and how the batch axis is laid out. One value per step, shared by everything
that looks at attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vgen.diffusion.frames import Frames, Role
from vgen.spec import Choice


class Direction(Choice):
    DENOISE = "denoise"
    INVERT = "invert"


@dataclass(frozen=True, slots=True)
class Rows:
    """The batch axis by name, slowest first: guidance rows (``null``, ``text``, ...), in each branches
    (``source``, ``target``, ...)."""

    guidance: tuple[str, ...] = ("text",)
    branches: tuple[str, ...] = ("target",)

    def split(self, x: Tensor) -> Tensor:
        """``(g r) ... -> g r ...``; a view."""
        if len(x) != len(self.guidance) * len(self.branches):
            raise ValueError(
                f"a batch of {len(x)} rows does not hold guidance {'+'.join(self.guidance)} x branches "
                f"{'+'.join(self.branches)}: "
                f"{len(self.guidance) * len(self.branches)} rows are needed; edit one clip at a time"
            )
        return x.unflatten(0, (len(self.guidance), len(self.branches)))

    def clips(self, num_sequences: int, where: str) -> int:
        """Rows of a batch that holds ``num_sequences`` positions of all its clips."""
        count = len(self.guidance) * len(self.branches)
        if num_sequences % count:
            raise ValueError(
                f"{num_sequences} positions at {where} are not those of {count} rows (guidance "
                f"{'+'.join(self.guidance)} x branches {'+'.join(self.branches)}); edit one clip at a time"
            )
        return count

    def branch(self, name: str) -> int:
        if name not in self.branches:
            raise ValueError(f"there is no branch {name!r} in this run; it has {', '.join(self.branches)}")
        return self.branches.index(name)

    def at(self, guidance: str, branch: str) -> int:
        """Row of the batch."""
        if guidance not in self.guidance:
            raise ValueError(
                f"there is no guidance row {guidance!r} in this run; it has {', '.join(self.guidance)}"
            )
        return self.guidance.index(guidance) * len(self.branches) + self.branch(branch)

    def of_branch(self, x: Tensor, name: str) -> Tensor:
        """``(g r) ...`` in which every branch holds the values of branch ``name``."""
        split = self.split(x)
        at = self.branch(name)
        return split[:, at : at + 1].expand_as(split).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Moment:
    """``step`` counts in the order of denoising also while inverting, so that what was recorded at a timestep
    is found there again. A long clip is seen in passes: ``frames`` are those seen together (None: all), what
    is recorded of a pass is found there, and ``role`` says what the pass is for."""

    step: int
    num_steps: int
    t: int
    direction: Direction
    rows: Rows
    frames: Frames | None = None
    role: Role = Role.WHOLE
