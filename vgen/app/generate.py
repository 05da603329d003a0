"""``vgen generate``: prompts to clips on disk, each with the card that made it."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from rich.console import Console

import vgen
from vgen.app.bars import steps_shown
from vgen.app.cascade import (
    CascadeStage,
    Drawing,
    KeptStages,
    name_others,
    planned,
    refuse_alone,
    settings_of,
    sized,
)
from vgen.app.config import run_hydra
from vgen.app.folders import claimed
from vgen.app.given_fields import GivenField, given_fields
from vgen.app.loading import NONE, SHIPPED, Checkpoint, open_checkpoint, refuse_undrawable
from vgen.app.long_prompts import warn_of_cut
from vgen.app.stacks import StackEntry, adapter_path
from vgen.app.terminal import Terminal
from vgen.conditions.fps import FPS
from vgen.data.clip_files import check_least_px, enlarged, to_uint8, write_gif, write_grid, write_mp4
from vgen.data.files import lines_of
from vgen.formats.adapter import plain
from vgen.methods import VideoModel
from vgen.methods._sampling import Prompt, Sampling, SamplingOverrides, num_steps, refuse_impossible
from vgen.spec import Choice, field, spec


class Dtype(Choice):
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


NOTHING_TO_DRAW = (
    'there is nothing to draw; give prompt="..." or prompt_file=FILE, or to what hears no words its field, '
    "as reference=PICTURE"
)
DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}


@spec
class GenerateRun:
    """``prompt`` or ``prompt_file`` (one a line); neither where what draws hears no words.

    ``adapter`` is what draws, by default the shipped one; ``stack`` puts further adapters beside it, or
    stands alone; ``loras`` are files of low-rank layers by other programs. ``fields`` are what they listen
    to beside words. ``cascade`` are stages that go on from what was drawn, in order; ``stages`` is a folder
    that keeps what each of them drew, from which the same command goes on. Clip ``i`` has seed ``seed + i``;
    small clips are enlarged to ``least_px`` in the files.
    """

    prompt: str = ""
    prompt_file: str | None = None
    negative: str = ""
    adapter: str = ""
    stack: list[StackEntry] = field(default_factory=list)
    loras: list[StackEntry] = field(default_factory=list)
    fields: list[GivenField] = field(default_factory=list)
    cascade: list[CascadeStage] = field(default_factory=list)
    stages: str = ""
    backbone: str | None = None
    seed: int = 0
    num_clips: int = 1
    batch_size: int = 4
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    dtype: Dtype = Dtype.FP32
    fps: float = 8.0
    least_px: int = 256
    out: str = ""

    def __post_init__(self) -> None:
        self.adapter = self.adapter or (NONE if self.stack else SHIPPED)
        if self.batch_size < 1 or self.num_clips < 1:
            raise ValueError(
                f"batch_size and num_clips must be at least 1, got {self.batch_size} and {self.num_clips}"
            )
        if not 0.01 <= self.fps <= 240:
            raise ValueError(f"fps must lie in 0.01..240, which mp4 and GIF can say, got {self.fps}")
        check_least_px(self.least_px)
        if self.stages and not self.cascade:
            raise ValueError(
                f"stages={self.stages} keeps what the stages of a cascade draw, and there are none; give "
                "cascade.NAME.file=RUN, or leave it out"
            )

    def prompts(self) -> list[Prompt]:
        """Every prompt ``num_clips`` times, each clip with a seed of its own; without words an empty one."""
        texts = [self.prompt] if self.prompt else []
        if self.prompt_file is not None:
            texts += _lines(self.prompt_file)
        if not texts and not self.fields:
            raise ValueError(NOTHING_TO_DRAW)
        repeated = [text for text in texts or [""] for _ in range(self.num_clips)]
        return [Prompt(text, seed=self.seed + i, negative=self.negative) for i, text in enumerate(repeated)]

    def refuse_words(self, video_model: VideoModel) -> None:
        """Raises ValueError where there are words that nothing hears, or none where they are heard."""
        hears = video_model.hears_words()
        if hears and not self.prompt and self.prompt_file is None:
            raise ValueError(NOTHING_TO_DRAW)
        if not hears and (self.prompt or self.prompt_file is not None or self.negative):
            fields = {name for one in video_model.conditions.values() for name in one.reads()}
            raise ValueError(
                "this checkpoint hears no words, got prompt, prompt_file or negative; leave them out, it "
                f"listens to {', '.join(sorted(fields))}"
            )


def _lines(prompt_file: str) -> list[str]:
    """The prompts of a file, without the mark that some editors begin UTF-8 with."""
    path = Path(prompt_file).expanduser()
    if not path.is_file():
        raise ValueError(f"prompt_file={prompt_file} is no file; give a text file with one prompt a line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ValueError(
            f"prompt_file={prompt_file} must be text in UTF-8 ({where}); save it as UTF-8"
        ) from error
    return [line.strip() for line in lines_of(text)]


def offer() -> None:
    ConfigStore.instance().store(name="generate_schema", node=GenerateRun)


def main() -> None:
    run_hydra("generate", offer, generate_files)


@dataclass(frozen=True, slots=True)
class Clip:
    """uint8 f h w 3 as it was drawn, and the card that says how."""

    video: np.ndarray
    fps: float
    card: dict[str, Any]

    def save(self, stem: str | Path, least_px: int = 256) -> None:
        """Write ``STEM.mp4``, ``STEM.gif`` and ``STEM.png``, small clips enlarged to ``least_px``."""
        shown = enlarged(self.video, least_px)
        write_mp4(_ending(stem, "mp4"), shown, self.fps, self.card)
        write_gif(_ending(stem, "gif"), shown, self.fps, self.card)
        write_grid(_ending(stem, "png"), enlarged(self.video, 128), self.card)


def _ending(stem: str | Path, suffix: str) -> Path:
    path = Path(stem).expanduser()
    return path.with_name(f"{path.name}.{suffix}")


def generate_files(run: GenerateRun, _plain: dict[str, Any]) -> Path:
    """Draw all prompts and write ``NNN-words.mp4 .gif .png`` into a new folder; returns it."""
    prompts = run.prompts()
    with claimed(run.out) as out:
        for number, clip in enumerate(_drawn(run, prompts, out, Terminal())):
            _write(out, number, clip, run)
    return out


def clips_of(run: GenerateRun, console: Console) -> list[Clip]:
    """All clips of a run; their files are written too where ``out`` names a folder."""
    prompts = run.prompts()
    clips: list[Clip] = []
    place: AbstractContextManager[Path | None] = claimed(run.out) if run.out else nullcontext()
    with place as out:
        for number, clip in enumerate(_drawn(run, prompts, out, console)):
            clips.append(clip)
            if out is not None:
                _write(out, number, clip, run)
    return clips


def _drawn(run: GenerateRun, prompts: list[Prompt], out: Path | None, console: Console) -> Iterator[Clip]:
    """Clip after clip, by one checkpoint or through the stages of a cascade."""
    draw = _draw_cascade if run.cascade else _draw
    yield from draw(run, prompts, out, console)


def _opened(run: GenerateRun, adapter: str) -> Checkpoint:
    checkpoint = open_checkpoint(
        adapter, run.backbone, dtype=DTYPES[run.dtype], stack=run.stack, loras=run.loras
    )
    refuse_undrawable(checkpoint)
    run.refuse_words(checkpoint.video_model)
    return checkpoint


def _heard(
    run: GenerateRun, checkpoint: Checkpoint, sampling: Sampling, fps: float
) -> dict[str, torch.Tensor]:
    """What the checkpoint listens to beside words: files, and the frame rate."""
    given = given_fields(run.fields, checkpoint.video_model, sampling, run.fps)
    reads = {name for one in checkpoint.video_model.conditions.values() for name in one.reads()}
    return {**given, FPS: torch.tensor([fps])} if FPS in reads else given


def _draw_cascade(
    run: GenerateRun, prompts: list[Prompt], out: Path | None, console: Console
) -> Iterator[Clip]:
    """Stage after stage, one model in memory at a time."""
    began = time.perf_counter()
    checkpoint = _opened(run, run.adapter)
    refuse_alone(checkpoint)
    sampling = checkpoint.sampling(run.sampling)
    refuse_impossible(checkpoint.video_model, sampling)
    plans = planned(run.cascade, sampling.num_frames)
    if not run.backbone:
        name_others(run.cascade, checkpoint.model.source, checkpoint.fingerprint)
    warn_of_cut(checkpoint.model, [prompt.text for prompt in prompts], console)
    fps = run.fps / math.prod(plan.follows.speed for plan in plans)
    drawing = Drawing(prompts, run.batch_size)
    kept = KeptStages(Path(run.stages).expanduser() if run.stages else None)
    drawn_by = _drawn_by(run, checkpoint, sampling)
    heard = _heard(run, checkpoint, sampling, fps)
    made_by = settings_of(prompts, sampling, {"by": drawn_by, "fps": fps})
    draw = partial(drawing.first, checkpoint, sampling, heard)
    total = drawing.num_steps(checkpoint, sampling, heard)
    latents = _stage(console, kept, "first", made_by, total, draw)
    for plan in plans:
        fps *= plan.follows.speed
        checkpoint = _opened(run, plan.stage.file)
        own = checkpoint.sampling(replace(run.sampling, num_frames=None))
        now = sized(plan, checkpoint, own, latents)
        made_by = settings_of(prompts, now, {"before": made_by, "stage": plan.stage.said(), "fps": fps})
        heard = _heard(run, checkpoint, now, fps)
        times = plan.follows.num_draws(latents.shape[1], plan.stage.num_frames, plan.at_once)
        total = times * drawing.num_steps(checkpoint, now, heard)
        draw = partial(drawing.next, checkpoint, plan, now, latents, heard)
        latents = _stage(console, kept, plan.stage.name, made_by, total, draw)
    drawn_by["cascade"] = [stage.said() for stage in run.cascade]
    for i, prompt in enumerate(prompts):
        row = latents[i : i + 1].to(checkpoint.video_model.device)
        clip = to_uint8(checkpoint.video_model.decode(row)[0].float().cpu())
        yield Clip(clip, run.fps, drawn_by | _said(prompt))
    seconds = time.perf_counter() - began
    console.print(_told(len(prompts), latents.shape[1], seconds, out))


def _told(num_clips: int, num_frames: int, seconds: float, out: object) -> str:
    clips, frames = f"clip{'s' * (num_clips != 1)}", f"frame{'s' * (num_frames != 1)}"
    return f"{num_clips} {clips} of {num_frames} {frames} in {seconds:.1f} s: {out}/"


def _said(prompt: Prompt) -> dict[str, Any]:
    """What a card says of one clip alone."""
    return {"prompt": prompt.text, "negative": prompt.negative, "seed": prompt.seed}


def _stage(
    console: Console, kept: KeptStages, name: str, made_by: Any, total: int, draw: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The stage's latents, drawn in ``total`` steps of which a bar tells, or those that were kept."""

    def drawn() -> torch.Tensor:
        with steps_shown(console, total, f"stage {name}") as on_step:
            return draw(on_step=on_step)

    latents, there = kept.drawn(name, made_by, drawn)
    console.print(f"stage {name}: {latents.shape[1]} frames, {'was there' if there else 'drawn'}")
    return latents


def _draw(run: GenerateRun, prompts: list[Prompt], out: Path | None, console: Console) -> Iterator[Clip]:
    checkpoint = _opened(run, run.adapter)
    refuse_alone(checkpoint)
    sampling = checkpoint.sampling(run.sampling)
    refuse_impossible(checkpoint.video_model, sampling)
    fields = _heard(run, checkpoint, sampling, run.fps)
    negatives = [prompt.negative for prompt in prompts] if sampling.guidance != 1 else []
    warn_of_cut(checkpoint.model, [*(prompt.text for prompt in prompts), *negatives], console)
    drawn_by = _drawn_by(run, checkpoint, sampling)
    began = time.perf_counter()
    batches = [prompts[i : i + run.batch_size] for i in range(0, len(prompts), run.batch_size)]
    total = len(batches) * num_steps(checkpoint.video_model, sampling, fields)
    with steps_shown(console, total) as on_step:
        for batch in batches:
            drawn = checkpoint.sample(batch, sampling, on_step, fields)
            for clip, prompt in zip(drawn, batch, strict=True):
                yield Clip(to_uint8(clip), run.fps, drawn_by | _said(prompt))
    seconds = time.perf_counter() - began
    console.print(_told(len(prompts), sampling.num_frames, seconds, out))


def _drawn_by(run: GenerateRun, checkpoint: Checkpoint, sampling: Sampling) -> dict[str, Any]:
    """What every clip of a run has in common; without any of it the same bytes cannot be drawn again."""
    trained = checkpoint.card
    return {
        "vgen": vgen.__version__,
        "sampling": plain(asdict(sampling)),
        "dtype": run.dtype.value,
        "batch_size": run.batch_size,
        **({"fields": [one.said() for one in run.fields]} if run.fields else {}),
        "image_model": {"source": checkpoint.model.source, "fingerprint": checkpoint.fingerprint},
        "adapter": run.adapter,
        "adapter_sha256": None if trained is None else _short_digest(adapter_path(run.adapter)),
        "stack": checkpoint.beside,
        "recipe": None
        if trained is None
        else {"name": trained.recipe, "knobs": trained.knobs, "backbone": trained.backbone},
    }


def _short_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:16]


def _write(out: Path, index: int, clip: Clip, run: GenerateRun) -> None:
    lower = clip.card["prompt"].lower()
    words = re.sub(r"[^a-z0-9]+", "-", lower).strip("-")[:48].rstrip("-") or "clip"
    clip.save(out / f"{index:03d}-{words}", run.least_px)


if __name__ == "__main__":
    from vgen.app.cli import run as run_verb

    raise SystemExit(run_verb("generate"))
