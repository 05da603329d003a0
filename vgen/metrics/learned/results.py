"""A number, by which rule it was made, and whether it may stand beside another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_PROVENANCE = ("videos", "software")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that makes a number what it is. ``weights``: sha256 by name. ``size``: height, width in
    pixels before ``resize``. ``task``: sha256 of what the videos were compared with (prompts, sources,
    references ...). ``seed``: the videos', None if unknown.

    ``videos`` (sha256 of the frames) and ``software`` say where the number came from and do not forbid a
    comparison."""

    id: str
    version: int
    weights: dict[str, str]
    n: int
    frames: int
    size: list[int]
    resize: str
    codec: str
    seed: int | None
    options: dict[str, str]
    task: str
    videos: str
    software: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``value`` is None exactly where ``skipped`` says why. ``per_clip``: one number per video (None where a
    clip does not ask for it), or None for distances between sets. ``notes``: what a reader should know, such
    as prompts that were cut."""

    value: float | None = None
    per_clip: list[float | None] | None = None
    skipped: str | None = None
    notes: list[str] = field(default_factory=list)
    manifest: Manifest | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Result:
        manifest = plain.get("manifest")
        return cls(**{**plain, "manifest": Manifest(**manifest) if manifest else None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a plug-in returns: ``per_clip`` or ``value``; ``resize`` and ``options`` go into the manifest, and
    so does a digest of the fields that it ``read`` beyond those that it needs."""

    per_clip: Sequence[float | None] | None = None
    value: float | None = None
    resize: str = "none"
    options: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    read: tuple[str, ...] = ()


def comparable(a: Result | Manifest, b: Result | Manifest) -> None:
    """Returns when the two numbers were made by one rule; raises ValueError, listing what differs,
    otherwise."""
    one, other = _manifest(a), _manifest(b)
    differing = [
        f"{f.name} ({_short(getattr(one, f.name))} and {_short(getattr(other, f.name))})"
        for f in fields(Manifest)
        if f.name not in _PROVENANCE and getattr(one, f.name) != getattr(other, f.name)
    ]
    if differing:
        what = one.id if one.id == other.id else f"{one.id} and {other.id}"
        raise ValueError(
            f"two values of {what} cannot be compared, since they differ in {', '.join(differing)}; measure "
            "both the same way"
        )


def _manifest(value: Result | Manifest) -> Manifest:
    if isinstance(value, Manifest):
        return value
    if value.manifest is None:
        raise ValueError(f"a skipped metric cannot be compared ({value.skipped}); measure it first")
    return value.manifest


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    text = str(value)
    return text[:10] + "…" if len(text) == 64 and " " not in text else text
