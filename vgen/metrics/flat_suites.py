"""Suites as they were written before each kind had a slot of its own: all settings side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SLOTS: dict[str, tuple[str, ...]] = {
    "open_share": ("text.open_share", "edit.open_share"),
    "minimal_pairs": ("text.minimal_pairs",),
    "pair_factors": ("text.pair_factors",),
    "related": ("text.related",),
    "two_things": ("text.two_things",),
    "edits": ("edit.edits",),
    "control": ("control.control",),
    "prompts_per_subject": ("identity.prompts_per_subject",),
    "num_references": ("identity.num_references",),
    "seeds_per_prompt": ("diversity.seeds_per_prompt",),
    "open_motion": ("diversity.open_motion",),
}
"""The settings that moved, and where each one stands now. Two kinds read ``open_share``."""


def in_slots(suite: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a suite with each setting in the slot of its kind. What is there already stays."""
    out: dict[str, Any] = {}
    for key, value in suite.items():
        if key not in SLOTS or isinstance(value, Mapping):
            out[key] = {**out.get(key, {}), **value} if isinstance(value, Mapping) else value
            continue
        for place in SLOTS[key]:
            slot, _, name = place.partition(".")
            out[slot] = {**out.get(slot, {}), name: value}
    return out
