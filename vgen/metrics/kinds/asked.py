"""What a suite asks of one kind of task: the slot of that kind, and how its tasks are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from vgen.metrics.kinds.scenes import Stream
from vgen.metrics.task import Task
from vgen.spec import Choice
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite


class Asked(ABC):
    """Settings of one kind of task. They stand in a named slot of :class:`vgen.metrics.suite.Suite`."""

    @abstractmethod
    def rule(self) -> dict[str, Any]:
        """What the tasks of this kind depend on, beside frames and seed, as plain data. A setting that is
        newer than the kind stands here only where it is used, so that older results stay comparable."""

    @abstractmethod
    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        """The tasks of place ``i`` of a bucket."""

    def check(self, suite: Suite) -> None:
        """Raises ValueError where the suite asks for what this kind cannot be drawn with. It is called for
        the kind that the suite draws."""
        return


def values(choices: list[Any]) -> list[Any]:
    """Choices as plain data."""
    return [choice.value if isinstance(choice, Choice) else choice for choice in choices]


def refuse_buckets(suite: Suite, name: str, lacks: tuple[Bucket, ...]) -> None:
    """Raises ValueError where the suite has clips in a bucket that this kind does not have."""
    counts = suite.counts()
    asked = [bucket.value for bucket in lacks if counts[bucket]]
    if asked:
        remedy = ", ".join(f"suite.{bucket}=0" for bucket in asked)
        raise ValueError(f"a suite of {name} has no bucket {' or '.join(asked)}; set {remedy}")


def refuse_share(name: str, share: float, default: float) -> None:
    """Raises ValueError for a share that lies outside of 0..1."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is a share and lies in 0..1, got {share}; {default:g} is the default")


def refuse_none(name: str, number: int) -> None:
    """Raises ValueError for a number below one."""
    if number < 1:
        raise ValueError(f"a suite needs one at least of each number, got {name}={number}; raise it")
