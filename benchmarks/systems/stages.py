"""What a stage of a cascade makes of true frames, and clips that only several commands draw: measured on
held-out scenes, by a program of its own, so that ``Workplace`` keeps what it found.

    python -m benchmarks.systems.stages goes_on out=measured/on file=runs/on n=48 num_frames=8 stride=2

``rows.jsonl`` has one line a clip, ``first.npz`` the clips of the first task.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.systems.plan import Panel, Row, Workplace
from vgen.app.cascade import CascadeStage, Drawing, planned, sized
from vgen.app.loading import Checkpoint, load_backbone, open_checkpoint
from vgen.app.stacks import TOYBOX
from vgen.backbones.image_model import ImageModel
from vgen.conditions.fps import FPS
from vgen.data.clip_files import to_uint8
from vgen.methods._sampling import Prompt, SamplingOverrides
from vgen.metrics.psnr import psnr
from vgen.metrics.suite import Suite, Task, tasks
from vgen.metrics.temporal_consistency import background_flicker
from vgen.toybox.renderer import render
from vgen.toybox.scenes import TICKS_PER_SECOND

SIZE_PX = 64
AT_ONCE = 8


def measured(work: Workplace, name: str, what: str, n: int, **told: Any) -> list[Row]:
    """Rows of ``what`` over ``n`` held-out scenes, found once under ``name``."""
    out = f"measured/{name}"
    words = [f"{key}={value}" for key, value in told.items()]
    asked = [f"out={out}", f"n={work.num(n)}", f"num_steps={work.num(12)}"]
    work.run(name, [sys.executable, "-m", "benchmarks.systems.stages", what, *asked, *words])
    lines = (work.folder / out / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def shown(work: Workplace, name: str, **titles: str) -> list[Panel]:
    """Panels of the first task: each clip that is named, below its title."""
    with np.load(work.folder / "measured" / name / "first.npz") as found:
        return [(title, found[key]) for key, title in titles.items()]


def held_out(n: int, num_frames: int, stride: int) -> list[Task]:
    """The first ``n`` tasks of the suite of words, as training draws scenes."""
    none = dict.fromkeys(("pair", "triple", "extrapolation", "paraphrase"), 0)
    return tasks(Suite(iid=n, num_frames=num_frames, stride_ticks=stride, **none))


def truths(todo: Sequence[Task]) -> np.ndarray:
    """uint8 b f h w 3."""
    return np.stack([render(task.scene, SIZE_PX).video for task in todo])


def _pixels(clips: np.ndarray) -> Tensor:
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def encoded(model: ImageModel, clips: np.ndarray) -> Tensor:
    """uint8 b f h w 3 to latents b f c h w."""
    return torch.cat([model.encode(_pixels(part)) for part in _parts(clips)])


@torch.no_grad()
def decoded(decode: Callable[[Tensor], Tensor], latents: Tensor) -> np.ndarray:
    clips = [to_uint8(clip) for part in latents.split(AT_ONCE) for clip in decode(part)]
    return np.stack(clips)


def _parts(clips: np.ndarray) -> list[np.ndarray]:
    return [clips[start : start + AT_ONCE] for start in range(0, len(clips), AT_ONCE)]


def stage_made(told: Row, todo: Sequence[Task], before: Tensor, num_frames: int) -> tuple[Checkpoint, Tensor]:
    """Latents that the stage of ``told`` makes of ``before``. Its words are those of the tasks, or none
    where ``words=false``; guidance is 1."""
    stage = CascadeStage(name="stage", file=told["file"], num_frames=num_frames)
    [plan] = planned([stage], before.shape[1])
    checkpoint = open_checkpoint(told["file"])
    asked = SamplingOverrides(num_steps=int(told["num_steps"]), guidance=1.0)
    sampling = sized(plan, checkpoint, checkpoint.sampling(asked), before)
    heard = told.get("words", "true") == "true"
    prompts = [Prompt(task.caption if heard else "", seed=task.seed) for task in todo]
    fields = {FPS: torch.tensor([TICKS_PER_SECOND / int(told["stride"])])}
    drawing = Drawing(prompts, AT_ONCE)
    with torch.no_grad():
        return checkpoint, drawing.next(checkpoint, plan, sampling, before, fields)


def _compared(todo: Sequence[Task], clips: dict[str, np.ndarray], judged: np.ndarray) -> list[Row]:
    """PSNR in dB to the truth, over the frames ``judged``, of every other clip."""
    rows = []
    for i, task in enumerate(todo):
        of = {key: psnr(clip[i][judged], clips["truth"][i][judged]) for key, clip in clips.items()}
        rows.append({"id": task.id, "group": task.group, **of})
    return rows


def goes_on(told: Row, todo: Sequence[Task]) -> tuple[list[Row], dict[str, np.ndarray]]:
    """The first ``given`` frames are true; the control stands still at the last of them."""
    truth, given = truths(todo), int(told["given"])
    latents = encoded(load_backbone(TOYBOX), truth)
    checkpoint, made = stage_made(told, todo, latents[:, :given], truth.shape[1])
    numbers = np.arange(truth.shape[1])
    clips = {
        "given": truth[:, np.minimum(numbers, given - 1)],
        "control": truth[:, np.minimum(numbers, given - 1)],
        "ours": decoded(checkpoint.video_model.decode, made),
        "truth": truth,
        "limit": decoded(checkpoint.model.decode, latents),
    }
    return _compared(todo, clips, numbers >= given), clips


def fills(told: Row, todo: Sequence[Task]) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Every ``factor``-th frame is true; the control blends the two beside each frame."""
    truth, factor = truths(todo), int(told["factor"])
    latents = encoded(load_backbone(TOYBOX), truth)
    checkpoint, made = stage_made(told, todo, latents[:, ::factor], 0)
    numbers = np.arange(truth.shape[1])
    left = numbers // factor * factor
    right = np.minimum(left + factor, numbers[-1])
    share = ((numbers - left) / factor)[:, None, None, None]
    clips = {
        "given": truth[:, left],
        "control": np.rint((1 - share) * truth[:, left] + share * truth[:, right]).astype(np.uint8),
        "ours": decoded(checkpoint.video_model.decode, made),
        "truth": truth,
        "limit": decoded(checkpoint.model.decode, latents),
    }
    return _compared(todo, clips, numbers % factor != 0), clips


def enlarges(told: Row, todo: Sequence[Task]) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Latents of the clip with sides ``factor`` times as short are true. The control is the bicubic
    enlargement of what they are decoded to, ``pixels`` that of the short clip itself."""
    truth, factor = truths(todo), int(told["factor"])
    model = load_backbone(TOYBOX)
    small = np.stack([_resized(clip, 1 / factor, "area") for clip in truth])
    latents = encoded(model, small)
    seen = decoded(model.decode, latents)
    checkpoint, made = stage_made(told, todo, latents, 0)
    clips = {
        "given": np.stack([_resized(clip, factor, "nearest") for clip in seen]),
        "control": np.stack([_resized(clip, factor, "bicubic") for clip in seen]),
        "pixels": np.stack([_resized(clip, factor, "bicubic") for clip in small]),
        "ours": decoded(checkpoint.video_model.decode, made),
        "truth": truth,
        "limit": decoded(model.decode, encoded(model, truth)),
    }
    return _compared(todo, clips, np.ones(truth.shape[1], bool)), clips


def _resized(clip: np.ndarray, factor: float, mode: str) -> np.ndarray:
    """uint8 f h w 3."""
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    out = F.interpolate(frames, scale_factor=factor, mode=mode).round().clamp(0, 255)
    return out.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def decodes(told: Row, todo: Sequence[Task]) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Latents of the truth through the decoder of ``file``, and through the image model's own, which is the
    control: flicker of the ground in 1/255, and PSNR in dB."""
    truth = truths(todo)
    plain, taught = load_backbone(TOYBOX), open_checkpoint(told["file"])
    latents = encoded(plain, truth)
    clips = {
        "control": decoded(plain.decode, latents),
        "ours": decoded(taught.video_model.decode, latents),
        "truth": truth,
    }
    rows = []
    for i, task in enumerate(todo):
        covered = render(task.scene, SIZE_PX).masks.max(1, initial=0) > 0
        row: Row = {"id": task.id, "group": task.group}
        for key in ("ours", "control"):
            row[key] = background_flicker(clips[key][i], covered)
            row[f"{key}_psnr"] = psnr(clips[key][i], truth[i])
        rows.append(row)
    return rows, clips


KINDS = {"goes_on": goes_on, "fills": fills, "enlarges": enlarges, "decodes": decodes}


def main(given: Sequence[str]) -> None:
    what, *words = given
    told: Row = dict(word.partition("=")[::2] for word in words)
    todo = held_out(int(told["n"]), int(told["num_frames"]), int(told["stride"]))
    rows, clips = KINDS[what](told, todo)
    out = Path(told["out"])
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "first.npz", **{key: clip[0] for key, clip in clips.items()})
    lines = [json.dumps(row) + "\n" for row in rows]
    (out / "rows.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
