"""Prompt-to-Prompt on the suite of edits, frame by frame, against the source copy.

Null-text optimisation is left out: ten of its steps in each of ten cost more than the edit."""

from __future__ import annotations

from benchmarks.systems.editing import COPY, FEW, against, columns, copied, edited
from benchmarks.systems.plan import Figure, Panel, Row, Workplace

WORDS = ("method.null_text.inner_steps=0",)


def measured(work: Workplace) -> list[Figure]:
    rows = edited(work, "prompt_to_prompt", "method=prompt_to_prompt", *WORDS, *FEW)
    return against(rows, "the source handed back", copied(work))


def editing(work: Workplace) -> dict[str, Row]:
    return {
        "prompt_to_prompt": columns(work, "prompt_to_prompt"),
        "the source handed back": columns(work, COPY),
    }


def picture(work: Workplace) -> list[Panel]:
    return work.shown("edit-prompt_to_prompt")
