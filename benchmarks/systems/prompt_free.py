"""Prompt-Free Diffusion on the toybox: facts of a reference picture that are drawn again without a word,
beside what the text model draws of its caption, and what a wrong reference gives.

A SeeCoder learns to say pictures to the frozen image model. It is shown scenes that it never saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared
from vgen.app.loading import TOYBOX, UNTRAINED, Checkpoint, open_checkpoint
from vgen.data.clip_files import to_uint8
from vgen.methods._sampling import Prompt, SamplingOverrides
from vgen.metrics.kinds.text import score_text
from vgen.metrics.suite import Suite, Task, batches, tasks
from vgen.toybox.renderer import render

NUM, BATCH = 64, 8
FACTS = {"exact_image": "all facts of the picture", "colour": "colours", "shape": "shapes"}


def measured(work: Workplace) -> list[Figure]:
    fields = ("data=toybox", "data.stills=true", "num_frames=16", "fields=[reference]")
    work.prepared("toybox_references", *fields, num_clips=4096)
    work.trained("toybox_prompt_free", "toybox_prompt_free", 350)
    todo = held_out(work.num(NUM))
    ours = scored(work, "prompt_free", "runs/toybox_prompt_free", todo, shift=0)
    wrong = scored(work, "prompt_free-wrong", "runs/toybox_prompt_free", todo, shift=1)
    words = scored(work, "prompt_free-words", UNTRAINED, todo)
    return [
        *(
            compared(f"{what} carried", column(ours, key), "another reference", column(wrong, key))
            for key, what in FACTS.items()
        ),
        compared("all facts, from its caption by the text model", column(words, "exact_image")),
    ]


def held_out(num: int) -> list[Task]:
    counts = {"pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    return tasks(Suite(iid=num, num_frames=1, **counts))


def reference(task: Task) -> np.ndarray:
    """uint8 1 h w 3."""
    return render(task.scene, 64).video


def scored(
    work: Workplace, name: str, adapter: str, todo: Sequence[Task], shift: int | None = None
) -> list[Row]:
    """Rows of all tasks, drawn from the reference that lies ``shift`` tasks on, or from the caption."""
    kept = work.folder / "evaluations" / f"{name}.json"
    if kept.is_file() and len(rows := json.loads(kept.read_text())) == len(todo):
        return rows
    path = adapter if adapter == UNTRAINED else str(work.folder / adapter)
    opened = open_checkpoint(path, TOYBOX, "cpu")
    drawn = [
        clip for group in batches(list(todo), BATCH) for clip in _drawn(work, opened, group, todo, shift)
    ]
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept.with_suffix(".npy"), drawn[0])
    rows = [dict(score_text(clip, task)) for clip, task in zip(drawn, todo, strict=True)]
    kept.write_text(json.dumps(rows))
    return rows


def _drawn(
    work: Workplace, opened: Checkpoint, group: Sequence[Task], todo: Sequence[Task], shift: int | None
) -> Iterator[np.ndarray]:
    words = [Prompt("" if shift is not None else task.caption, seed=task.seed) for task in group]
    guidance = {} if shift is not None else {"guidance": 3.0}
    how = opened.sampling(SamplingOverrides(num_frames=1, num_steps=work.num(20), **guidance))
    fields = {}
    if shift is not None:
        given = [reference(todo[(list(todo).index(task) + shift) % len(todo)])[0] for task in group]
        fields["reference"] = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2)[:, None]
    for clip in opened.sample(words, how, fields=fields):
        yield to_uint8(clip)


def picture(work: Workplace) -> list[Panel]:
    first, *_ = held_out(1)
    drawn = np.load(work.folder / "evaluations" / "prompt_free.npy", allow_pickle=False)
    return [("the reference", reference(first)), ("drawn from it without a word", drawn)]
