"""InstructPix2Pix on held-out edits of the toybox, stills: EDIT with its four parts, beside a copy of the
source.

    python benchmarks/toybox_instruct.py adapter=runs/toybox_instruct n=48 steps=20 guidance=5

The pairs are those of the edit suite (salted, in no corpus), edits in turns. Prints means with 95 % bootstrap
intervals, and the difference to the copy over the same pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch

from vgen.app.judging.suite_edits import Editor
from vgen.app.loading import TOYBOX, open_checkpoint
from vgen.backbones.image_model import ImageModel
from vgen.data.clip_files import to_uint8
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.instruct_pix2pix import InstructPix2Pix
from vgen.metrics.editing import score_edit
from vgen.metrics.kinds.edit import AskedEdits
from vgen.metrics.metric import Numbers
from vgen.metrics.statistics import interval, paired_difference
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.edits import Edit

SHOWN = ("edit", "edit_acc", "keep_acc", "traj", "bg", "oracle_psnr")
DEFAULTS = {
    "adapter": "runs/toybox_instruct",
    "n": "48",
    "steps": "20",
    "guidance": "5",
    "image_guidance": "1.5",
    "edits": "recolour,reshape,ground,both",
}


def main(given: Sequence[str]) -> None:
    how = DEFAULTS | dict(one.split("=", 1) for one in given)
    unknown = sorted(set(how) - set(DEFAULTS))
    if unknown:
        raise SystemExit(f"{', '.join(unknown)} is no setting; there are {', '.join(DEFAULTS)}")
    edits = AskedEdits(edits=[Edit(name) for name in how["edits"].split(",")])
    counts = {"pair": 0, "triple": 0, "extrapolation": 0, "paraphrase": 0}
    todo = tasks(Suite(kind=Kind.EDIT, edit=edits, iid=int(how["n"]), num_frames=1, **counts))
    opened = open_checkpoint(how["adapter"], TOYBOX, "cpu")
    editor = Editor(
        recipe=InstructPix2Pix(image_guidance=float(how["image_guidance"])),
        open=lambda: opened,
        sampling=SamplingOverrides(num_steps=int(how["steps"]), guidance=float(how["guidance"])),
    )
    rows: dict[str, list[Numbers]] = {"instruct_pix2pix": [], "source copy": []}
    for task in todo:
        codec = through_codec(opened.model, task)
        rows["instruct_pix2pix"].append(scored(task, editor([task])[0], codec))
        rows["source copy"].append(scored(task, codec, codec))
    told(rows)


def through_codec(model: ImageModel, task: Task) -> np.ndarray:
    """The source through encoder and decoder: what a copy can show at best."""
    video = torch.from_numpy(task.inputs().source).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        return to_uint8(model.decode(model.encode(video))[0])


def scored(task: Task, video: np.ndarray, codec: np.ndarray) -> Numbers:
    return score_edit(task.inputs().source, video, task.about, codec)


def told(rows: dict[str, list[Numbers]]) -> None:
    """A table in Markdown, then what each kind of edit has."""
    print(f"| | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    for name, numbers in rows.items():
        print(f"| {name} | {' | '.join(worded(numbers, key) for key in SHOWN)} |")
    ours, theirs = ([row["edit"] for row in numbers] for numbers in rows.values())
    beyond = paired_difference(ours, theirs)
    print(f"EDIT beyond the copy: {beyond.mean:.2f} [{beyond.low:.2f}, {beyond.high:.2f}], n = {beyond.num}")


def worded(numbers: list[Numbers], key: str) -> str:
    found = interval([row[key] for row in numbers])
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
