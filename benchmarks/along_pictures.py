"""Clips drawn along control pictures on the toybox's suite of controls (O3): how well they keep to the
control, to the words and to themselves, against drawing each frame alone.

    python benchmarks/along_pictures.py net=models/edges n=32 steps=10

``net`` is a ControlNet of the toybox's image model for ``control`` (edges, mask), in diffusers' layout;
none is shipped. ``each`` draws every frame alone from noise of its own, and is what all others are compared
with clip by clip. ``shared`` gives all frames one noise, ``full`` lets them read each other too, ``smooth``
is ControlVideo with its smoother, ``long`` the same by its keys. Every clip is a file of ``out``, so that a
killed run goes on. Prints tables in Markdown: means with 95 % bootstrap intervals, then differences from
``each`` over the same clips. ``warp`` is a hundred times the squared difference of a frame and the next one
brought onto it by the true flow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from vgen.app.control_net import Structure
from vgen.app.loading import TOYBOX, UNTRAINED, Checkpoint, open_checkpoint
from vgen.attention.keys import Frame
from vgen.backbones.control_net import load_control_net
from vgen.backbones.flow import inside, warped
from vgen.conditions.control_net import ControlNet
from vgen.data.clip_files import to_uint8
from vgen.data.files import write_json
from vgen.diffusion.frames import Sliding
from vgen.diffusion.smoother import SmootherSpec
from vgen.layers.norm import NormScope
from vgen.methods._editing import EditSession, Wish, start_noise
from vgen.methods._sampling import Sampling
from vgen.methods.controlvideo_free import ControlVideoFree
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.metric import Numbers
from vgen.metrics.scoring import score
from vgen.metrics.statistics import Interval, interval, paired_difference
from vgen.metrics.suite import Kind, Suite, tasks
from vgen.metrics.task import Task
from vgen.toybox.renderer import render

BASE = "each"
SHOWN = ("j_norm", "ctrl_gain", "exact", "tc", "warp", "seconds")
DEFAULTS = {
    "net": "",
    "control": "edges",
    "n": "32",
    "frames": "8",
    "steps": "10",
    "guidance": "3",
    "methods": "each,shared,full,smooth",
    "out": "outputs/along_pictures",
}
OFF = SmootherSpec(count=0)


def recipes() -> dict[str, tuple[ControlVideoFree, int]]:
    """Each with the most frames that are seen whole; 0: all."""
    alone = {"frames_read": [Frame.SELF], "image_norm_scope": NormScope.FRAME, "smoother": OFF}
    return {
        "each": (ControlVideoFree(shared_noise=False, **alone), 0),
        "shared": (ControlVideoFree(**alone), 0),
        "full": (ControlVideoFree(smoother=OFF), 0),
        "smooth": (ControlVideoFree(), 0),
        "long": (ControlVideoFree(), 4),
    }


@dataclass(frozen=True, slots=True)
class Drawer:
    """One row of the table with its models, opened once."""

    recipe: ControlVideoFree
    window: int
    checkpoint: Checkpoint
    sampling: Sampling

    @classmethod
    def opened(cls, name: str, options: dict[str, str]) -> Drawer:
        recipe, window = recipes()[name]
        checkpoint = open_checkpoint(UNTRAINED, TOYBOX, untrained=recipe)
        video_model, size_px = checkpoint.video_model, checkpoint.model.size_px
        side = size_px // checkpoint.model.vae_factor
        net = load_control_net(Path(options["net"]), video_model.device)
        blank = torch.zeros(1, 1, 3, size_px, size_px)
        noise = torch.zeros(1, 1, checkpoint.model.latent_channels, side, side)
        Structure(net=net, pictures=blank).run_by(recipe).beside(video_model, noise)
        sampling = Sampling(num_steps=int(options["steps"]), guidance=float(options["guidance"]))
        return cls(recipe, window, checkpoint, sampling)

    def __call__(self, task: Task) -> np.ndarray:
        model, video_model, recipe = self.checkpoint.model, self.checkpoint.video_model, self.recipe
        side, num_frames = model.size_px // model.vae_factor, task.scene.num_frames
        device = video_model.device
        noise = start_noise(model, num_frames, (side, side), task.seed, device, recipe.start())
        control = torch.from_numpy(task.inputs(model.size_px).control).to(device).float() / 255
        session = EditSession(
            video_model=video_model,
            wish=Wish(target=task.caption),
            noise=noise,
            sampling=self.sampling,
            fields={ControlNet().reading: control[None, :, None].expand(-1, -1, 3, -1, -1)},
            frames=recipe.frame_schedule(Sliding(num_frames=self.window)),
            seed=task.seed,
        )
        with torch.no_grad():
            return to_uint8(model.decode(recipe.edit(session).latents)[0])


def scored(task: Task, video: np.ndarray) -> Numbers:
    flow = render(task.scene, video.shape[1]).flow()
    errors = [
        np.square((warped(b, step) - a) / 255)[inside(step)].mean()
        for (a, b), step in zip(pairwise(video.astype(np.float64)), flow, strict=True)
    ]
    return {**score(video, task), "warp": 100 * float(np.mean(errors))}


def evaluated(name: str, options: dict[str, str], todo: Sequence[Task], console: Console) -> list[Numbers]:
    rows, draw = [], None
    for i, task in enumerate(todo):
        file = Path(options["out"]) / name / f"{task.id}.npz"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            draw = draw or Drawer.opened(name, options)
            began = time.process_time()
            video = draw(task)
            np.savez_compressed(file, video=video, seconds=time.process_time() - began)
        held = np.load(file)
        rows.append({**scored(task, held["video"]), "seconds": float(held["seconds"])})
        console.print(f"{name} {i + 1} of {len(todo)}")
    return rows


def table(found: dict[str, dict[str, Interval]], head: str) -> Iterator[str]:
    yield f"\n| {head} | {' | '.join(SHOWN)} |"
    yield "|---" * (1 + len(SHOWN)) + "|"
    for name, row in found.items():
        cells = [f"{row[key].mean:.3f} ({row[key].low:.3f} to {row[key].high:.3f})" for key in SHOWN]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    options = DEFAULTS | dict(word.partition("=")[::2] for word in sys.argv[1:])
    suite = Suite(
        kind=Kind.CONTROL,
        iid=int(options["n"]),
        pair=0,
        triple=0,
        extrapolation=0,
        paraphrase=0,
        num_frames=int(options["frames"]),
        stride_ticks=2,
        control=AskedControl(control=Control(options["control"])),
    )
    console, todo, names = Console(stderr=True), tasks(suite), options["methods"].split(",")
    rows = {name: evaluated(name, options, todo, console) for name in names}
    columns = {name: {key: [row[key] for row in rows[name]] for key in SHOWN} for name in rows}
    means = {name: {key: interval(of[key]) for key in SHOWN} for name, of in columns.items()}
    others = {name: of for name, of in columns.items() if name != BASE and BASE in columns}
    differences = {
        name: {key: paired_difference(of[key], columns[BASE][key]) for key in SHOWN}
        for name, of in others.items()
    }
    plain = {n: {key: asdict(x) for key, x in of.items()} for n, of in means.items()}
    write_json(Path(options["out"]) / "figures.json", {"options": options, "means": plain, "rows": rows})
    print("\n".join([*table(means, f"n = {len(todo)}"), *table(differences, f"minus {BASE}")]))


if __name__ == "__main__":
    main()
