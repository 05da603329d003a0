"""DreamArtist on the toybox: one thing learnt as two words from one picture, drawn on another ground, against
the positive word alone and the word it began as.

Eight things that training never showed are learnt one by one and drawn six times each. A picture counts
where colour and shape are the thing's and the ground is the one that the prompt asks for.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.systems.plan import Figure, Panel, Row, Workplace, column, compared
from vgen.app.loading import TOYBOX, UNTRAINED, open_checkpoint
from vgen.data.clip_files import to_uint8
from vgen.methods._sampling import Prompt, SamplingOverrides
from vgen.metrics.kinds.text import AskedText, score_text
from vgen.metrics.suite import Suite, Task, tasks
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Ground, Scene

SUBJECTS, TIMES, STEPS = 8, 6, 1000
GROUNDS = [Ground.BLACK, Ground.NAVY, Ground.GRAY, Ground.BROWN]
INIT = "circle"
SILENT = " "
"""A negative prompt that says nothing, where none at all would be the negative word's."""


def measured(work: Workplace) -> list[Figure]:
    rows: dict[str, list[Row]] = {"both": [], "positive": [], "init": []}
    for number, task in enumerate(things(work.num(SUBJECTS))):
        learn(work, number, task)
        path = str(work.folder / "runs" / f"dreamartist_{number}")
        rows["both"] += drawn(work, f"dreamartist-{number}", path, task)
        rows["positive"] += drawn(work, f"dreamartist-{number}-positive", path, task, negative=SILENT)
        rows["init"] += drawn(work, f"dreamartist-{number}-init", UNTRAINED, task)
    groups = [row["group"] for row in rows["both"]]
    alone, before = "the positive word alone", f"the word {INIT}"
    both = {key: column(rows["both"], key) for key in ("all", "thing", "ground")}
    return [
        compared(
            "the thing on another ground", both["all"], alone, column(rows["positive"], "all"), groups=groups
        ),
        compared(
            "colour and shape carried", both["thing"], before, column(rows["init"], "thing"), groups=groups
        ),
        compared("ground as asked", both["ground"], before, column(rows["init"], "ground"), groups=groups),
    ]


def things(num: int) -> list[Task]:
    """Stills of one thing on a solid ground, in no corpus."""
    counts = {"pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    return tasks(Suite(iid=num, num_frames=1, text=AskedText(two_things=0.0), **counts))


def elsewhere(scene: Scene) -> Scene:
    """The same on the next ground."""
    assert isinstance(scene.ground, Ground)
    return replace(scene, ground=GROUNDS[(GROUNDS.index(scene.ground) + 1) % len(GROUNDS)])


def said(scene: Scene, word: str) -> str:
    assert isinstance(scene.ground, Ground)
    return f"a {word} rests on a {scene.ground.value} background"


def learn(work: Workplace, number: int, task: Task) -> None:
    folder = work.folder / "things"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(task.scene, 64).video[0]).save(folder / f"{number}.png")
    prompt = f'data.prompt="{said(task.scene, "<subject>")}"'
    told = (f"data.video=things/{number}.png", prompt, f"method.init={INIT}", "optim.lr=1e-2")
    work.trained(f"dreamartist_{number}", "dreamartist", STEPS, *told, batch=())


def drawn(work: Workplace, name: str, adapter: str, task: Task, negative: str = "") -> list[Row]:
    """One row for each of the pictures: 1 where the thing is the same, where the ground is as asked, where
    both are."""
    kept = work.folder / "evaluations" / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    opened = open_checkpoint(adapter, TOYBOX, "cpu")
    scene = elsewhere(task.scene)
    words = said(scene, INIT if adapter == UNTRAINED else "<subject>")
    prompts = [Prompt(words, seed=task.seed + i, negative=negative) for i in range(work.num(TIMES))]
    how = opened.sampling(SamplingOverrides(num_frames=1, num_steps=work.num(20), guidance=5.0))
    clips = [to_uint8(clip) for clip in opened.sample(prompts, how)]
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept.with_suffix(".npy"), clips[0])
    rows = [_row(clip, replace(task, scene=scene)) for clip in clips]
    kept.write_text(json.dumps(rows))
    return rows


def _row(clip: np.ndarray, task: Task) -> Row:
    read = score_text(clip, task)
    thing = float(read["colour"] == 1 and read["shape"] == 1)
    ground = read["ground"] or 0.0
    return {"thing": thing, "ground": ground, "all": thing * ground, "group": task.id}


def picture(work: Workplace) -> list[Panel]:
    """The first thing, and the first picture of it elsewhere."""
    [first] = things(1)
    after = np.load(work.folder / "evaluations" / "dreamartist-0.npy", allow_pickle=False)
    before = render(first.scene, 64).video
    return [("the one picture", before), (said(elsewhere(first.scene), "<subject>"), after)]
