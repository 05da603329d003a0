"""Where the clips of an evaluation come from: checkpoints that are opened only where a clip is missing, or
videos of other tools."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgen.app.judging.clip_store import Sampler
from vgen.app.judging.controls import fields_of, frame_rate_of, heard_by, hears, refuse_lacking
from vgen.app.judging.evaluation import EvaluateRun
from vgen.app.judging.shares import device
from vgen.app.judging.suite_edits import Editor, Work, choices
from vgen.app.judging.video_set import open_videos
from vgen.app.loading import TOYBOX, UNTRAINED, Checkpoint, load_backbone, open_checkpoint
from vgen.app.stacks import StackEntry, adapter_path
from vgen.backbones.image_model import ImageModel
from vgen.data.clip_files import to_uint8
from vgen.formats.adapter import file_sha256, load_adapter
from vgen.methods import Recipe
from vgen.methods._editing import Editing
from vgen.methods._sampling import Prompt, Sampling
from vgen.metrics.suite import Task
from vgen.resources import data_dir

_CHUNK = 1 << 16
_FROM_WORDS = ("text", "diversity", "camera")  # kinds of task that a caption and a seed are enough for


@dataclass(frozen=True, slots=True)
class Source:
    """``identity`` says what it is, for the manifest. ``drawn`` is false for clips that only have to be read.
    ``work`` counts what drawing costs where the sampler's settings do not say it, clip by clip."""

    identity: dict[str, Any]
    open: Callable[[], Sampler]
    drawn: bool = True
    work: Work | None = None

    @property
    def codec(self) -> str:
        """What its clips went through before they were scored."""
        return "raw" if self.drawn else ", ".join(self.identity["decoded_from"])


Reconstruct = Callable[[np.ndarray], np.ndarray]
"""uint8 f h w 3 through encoder and decoder."""


def sources_of(run: EvaluateRun, todo: list[Task]) -> dict[str, Source]:
    """By short name."""
    return {
        name: _checkpoint(run, place, todo) if place in run.adapter else _videos(run, place, todo)
        for name, place in run.names().items()
    }


def _videos(run: EvaluateRun, folder: str, todo: list[Task]) -> Source:
    videos = open_videos(folder, run.prompts, todo)
    return Source(videos.identity(), lambda: videos.sampler, drawn=False)


def _checkpoint(run: EvaluateRun, adapter: str, todo: list[Task]) -> Source:
    _refuse_kind(run, adapter, todo[0])
    identity: dict[str, Any] = {"adapter": adapter, "backbone": run.backbone}
    if adapter != UNTRAINED:
        identity["sha256"] = hashlib.sha256(adapter_path(adapter).read_bytes()).hexdigest()
    identity |= _stack_identity(run)
    identity["image_model"] = image_model_digest(backbone_of(run, adapter))
    if run.method is None:
        return Source(
            identity,
            lambda: _sampler(run, adapter, todo[0]),
        )
    method = run.method
    editor = Editor(
        recipe=method,
        sampling=run.sampling,
        open=lambda: _opened(run, adapter, method),
        tune=run.tune,
        window=run.window,
    )
    return Source(identity | {"method": run.method_name}, lambda: editor, work=editor.work)


def _sampler(run: EvaluateRun, adapter: str, task: Task) -> Sampler:
    checkpoint = _opened(run, adapter)
    refuse_lacking(checkpoint.video_model, task, run.suite_name)
    return sampler_of(checkpoint, run.drawn(), run.suite.num_frames)


def _opened(run: EvaluateRun, adapter: str, method: Recipe | None = None) -> Checkpoint:
    return open_checkpoint(
        adapter, run.backbone, device(), untrained=method, stack=run.stack, loras=run.loras
    )


def _stack_identity(run: EvaluateRun) -> dict[str, Any]:
    """What lies beside every checkpoint; nothing where there is none, as before there were stacks."""
    beside = {"stack": run.stack, "loras": run.loras}
    return {name: [_entry_identity(one) for one in entries] for name, entries in beside.items() if entries}


def _entry_identity(entry: StackEntry) -> dict[str, Any]:
    path = Path(entry.file).expanduser()
    path = path if path.is_file() else adapter_path(entry.file, f"stack.{entry.name}.file")
    return {"name": entry.name, "sha256": file_sha256(path), "scale": entry.scale}


def _refuse_kind(run: EvaluateRun, adapter: str, task: Task) -> None:
    """Raise ValueError where the kind of task wants something else than what was given."""
    kind = task.kind
    asked = f"suite {run.suite_name} asks for {kind.name}"
    if run.method is not None and not kind.has_source:
        raise ValueError(
            f"method={run.method_name} edits clips, and {asked}; use suite=edit, or leave method out"
        )
    if run.method is None and kind.has_source:
        raise ValueError(
            f"{asked}, and adapter={adapter} draws from captions alone; say what edits: "
            f"method={'|'.join(choices())}"
        )
    if run.method is not None:
        _refuse_unseeing(run, run.method, adapter, task)
    if not kind.has_source and kind.name not in _FROM_WORDS and not hears(adapter, task, run.stack):
        raise ValueError(
            f"{asked}, which needs more than a caption, and adapter={adapter} draws from captions alone; "
            "'vgen evaluate stage=prompts' "
            "writes what each clip is made from, and videos=FOLDER scores what a method made of it"
        )


def _refuse_unseeing(run: EvaluateRun, method: Recipe, adapter: str, task: Task) -> None:
    """Raise ValueError where a method draws along control pictures and no ControlNet is there to see them."""
    wants = isinstance(method, Editing) and (method.along_pictures or method.stands_on() is not None)
    shown = list(task.kind.structure)
    if wants and not heard_by(adapter, run.stack) & {*shown}:
        raise ValueError(
            f"method={run.method_name} draws along the pictures of a ControlNet, and none is there; give "
            f"stack.edges.file=RUN, a ControlNet that vgen trained, which is shown {', '.join(shown)} of the "
            "true source"
        )


def backbone_of(run: EvaluateRun, adapter: str) -> str:
    """The image model that ``adapter`` stands in."""
    if run.backbone or adapter == UNTRAINED:
        return run.backbone or TOYBOX
    return load_adapter(adapter_path(adapter))[1].backbone_source


def codec_of(run: EvaluateRun) -> str | None:
    """The image model whose encoder and decoder say what can be kept of a clip; None for videos of other
    tools where none is named."""
    return backbone_of(run, run.adapter[0]) if run.adapter else run.backbone


def image_model_digest(name: str) -> str | None:
    """Of an image model's folder: names and sizes of its files and samples of their bytes; None where it is
    no folder here."""
    folder = data_dir() / TOYBOX if name == TOYBOX else Path(name).expanduser()
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(
        p
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        for p in (folder / part).glob("*")
    ):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}".encode())
        with path.open("rb") as file:
            for at in sorted({0, max(0, size // 2 - _CHUNK // 2), max(0, size - _CHUNK)}):
                file.seek(at)
                digest.update(file.read(_CHUNK))
    return digest.hexdigest()[:16]


def sampler_of(checkpoint: Checkpoint, sampling: Sampling, num_frames: int) -> Sampler:
    """The checkpoint as a function from tasks to uint8 clips; each clip has its task's own noise, whatever
    the batch.

    Raises ValueError unless the clips are square, as a suite's scenes are.
    """
    wish = replace(sampling, num_frames=num_frames)
    width_px, height_px = (px or checkpoint.model.size_px for px in (sampling.width_px, sampling.height_px))
    if width_px != height_px:
        raise ValueError(
            f"the clips of a suite are square, got sampling.width_px={width_px} and "
            f"sampling.height_px={height_px}; give both the same value"
        )

    def draw(todo: list[Task]) -> np.ndarray:
        prompts = [Prompt(task.caption, seed=task.seed) for task in todo]
        fields = fields_of(todo, width_px, checkpoint.video_model.start.reads()) | frame_rate_of(todo)
        clips = checkpoint.sample(prompts, wish, fields=fields)
        return np.stack([to_uint8(clip) for clip in clips])

    return draw


def cost(sampling: Sampling, num_frames: int) -> int:
    """Times that the UNet sees the frames of one clip: what a clip costs on any machine."""
    seen = sampling.window.frames_seen(num_frames) / num_frames
    return round(sampling.num_steps * seen) * (1 if sampling.guidance == 1 else 2)


def decoder(name: str, named_by: str = "") -> Reconstruct:
    """An image model's encoder and decoder on uint8 clips; ``named_by`` as for :func:`load_backbone`."""
    model: ImageModel = load_backbone(name, named_by)

    @torch.no_grad()
    def through(video: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(video).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        return to_uint8(model.decode(model.encode(pixels))[0])

    return through
