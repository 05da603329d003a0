"""When something acts during denoising: the papers count in fractions, in steps done and in steps left, so a
window carries its unit."""

from __future__ import annotations

import math

from vgen.spec import Choice, spec


class Unit(Choice):
    """``fraction`` 0 is the noisiest step, 1 the end; ``step`` counts from 0 at the noisiest; ``remaining``
    down to 1 at the last."""

    FRACTION = "fraction"
    STEP = "step"
    REMAINING = "remaining"


class Ends(Choice):
    """Which ends of a window of fractions lie inside: ``first``, ``both`` or ``neither``."""

    FIRST = "first"
    BOTH = "both"
    NEITHER = "neither"


@spec
class StepWindow:
    """The steps from ``start`` (included) to ``end`` (excluded), in the order of denoising; ``remaining``
    therefore runs downwards. ``ends`` says otherwise for fractions: .1 of 20 steps is step 2, which is inside
    a window that ends with it where both ends are."""

    start: float = 0.0
    end: float = 1.0
    unit: Unit = Unit.FRACTION
    ends: Ends = Ends.FIRST

    def __post_init__(self) -> None:
        ordered = self.start >= self.end if self.unit is Unit.REMAINING else self.start <= self.end
        if not ordered or min(self.start, self.end) < 0 or (self.unit is Unit.FRACTION and self.end > 1):
            raise ValueError(
                "a step window must run forward (fractions from 0 to 1, remaining steps downwards), "
                f"got {self.start} to {self.end} in {self.unit.value}s"
            )
        if self.ends is not Ends.FIRST and self.unit is not Unit.FRACTION:
            raise ValueError(
                f"ends={self.ends.value} is meant for a window of fractions, got one in {self.unit.value}s; "
                "leave it out and count the steps"
            )

    def steps(self, num_steps: int) -> range:
        """The steps of a run of ``num_steps`` that lie inside."""
        match self.unit:
            case Unit.FRACTION:
                first, last = self._edges(num_steps)
            case Unit.STEP:
                first, last = int(self.start), int(self.end)
            case Unit.REMAINING:
                first, last = num_steps - int(self.start), num_steps - int(self.end)
        return range(max(0, first), min(num_steps, last))

    def _edges(self, num_steps: int) -> tuple[int, int]:
        """The first step inside and the first one behind, of fractions."""
        low, high = (math.floor(edge * num_steps + 1e-9) for edge in (self.start, self.end))
        up, over = (math.ceil(edge * num_steps - 1e-9) for edge in (self.start, self.end))
        match self.ends:
            case Ends.FIRST:
                return low, high
            case Ends.BOTH:
                return up, high + 1
            case Ends.NEITHER:
                return low + 1, over

    def of_rows(self, num_steps: int) -> StepWindow:
        """The same in steps, for words: the released Prompt-to-Prompt takes the shares of cross-attention of
        a table of ``num_steps + 1`` rows, so that .75 of 50 steps are 38 of them and not 37."""
        if self.unit is not Unit.FRACTION or self.ends is not Ends.FIRST:
            return self
        first, last = (int(edge * (num_steps + 1) + 1e-9) for edge in (self.start, self.end))
        return StepWindow(start=first, end=min(last, num_steps), unit=Unit.STEP)

    def holds(self, step: int, num_steps: int) -> bool:
        return step in self.steps(num_steps)
