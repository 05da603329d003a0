"""Clips drawn in stages: each takes up the latents of the one before it, and leaves its own on the disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vgen.app.loading import Checkpoint
from vgen.app.stacks import adapter_path, recipe_of
from vgen.data.files import write_whole
from vgen.formats.adapter import file_sha256, load_adapter, plain
from vgen.methods._cascade import Follows
from vgen.methods._sampling import Prompt, Sampling, as_trained, latent_size, num_steps
from vgen.spec import spec

log = logging.getLogger(__name__)
LATENTS = "latents"


@spec
class CascadeStage:
    """``file`` is a run or an adapter that goes on from what the stages before it drew; ``num_frames`` what
    comes out of it, 0 for what it gives by itself."""

    name: str = ""
    file: str = ""
    num_frames: int = 0

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.file:
            raise ValueError(
                "a stage of a cascade has a name and a file, as cascade.between.file=RUN, got "
                f"{self.name!r} and "
                f"{self.file!r}"
            )
        if self.num_frames < 0:
            raise ValueError(
                f"cascade.{self.name}.num_frames must not be negative, got {self.num_frames}; 0 is what the "
                "stage gives by itself"
            )

    def said(self) -> dict[str, Any]:
        """For the card of what was drawn."""
        digest = file_sha256(adapter_path(self.file, f"cascade.{self.name}"))
        return {"name": self.name, "file": self.file, "sha256": digest, "num_frames": self.num_frames}


def refuse_twins(stages: Sequence[CascadeStage]) -> None:
    """Raises ValueError where two stages have one name, or the first's."""
    names = [stage.name for stage in stages]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"two stages of the cascade are called {twins[0]}; give each a name of its own")


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage, how it goes on, the frames that it draws in one go, and those that come out of it."""

    stage: CascadeStage
    follows: Follows
    at_once: int
    num_frames: int


def planned(stages: Sequence[CascadeStage], num_frames: int) -> list[Planned]:
    """The stages behind a first one of ``num_frames``, before anything is drawn.

    Raises ValueError where two stages have one name, and where one goes on from nothing or can't make the
    frames that are asked for.
    """
    names = [stage.name for stage in stages]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"two stages of the cascade are called {twins[0]}; give each a name of its own")
    out: list[Planned] = []
    for stage in stages:
        where = f"cascade.{stage.name}"
        card = load_adapter(adapter_path(stage.file, where))[1]
        recipe = recipe_of(card, where)
        found = recipe.follows()
        if found is None:
            raise ValueError(
                f"{where}.file={stage.file} is of method {card.recipe} and is given no frames; give a run "
                "that was "
                "trained to go on from frames (method.context.which=first or every)"
            )
        at_once = as_trained(recipe.sampling(), card.summary).num_frames
        before = out[-1].num_frames if out else num_frames
        frames = found.frames(before, stage.num_frames, at_once)
        out.append(Planned(stage, found, at_once, frames))
    return out


def name_others(stages: Sequence[CascadeStage], source: str, fingerprint: str) -> None:
    """Say which stages were trained on another image model than the first one, ``source`` with this
    ``fingerprint``: to another VAE its latents mean something else."""
    for stage in stages:
        where = f"cascade.{stage.name}"
        card = load_adapter(adapter_path(stage.file, where))[1]
        if card.backbone not in (fingerprint, ""):
            log.warning(
                "%s.file=%s was trained on image model %s, and goes on from latents of %s; where their VAEs "
                "differ it draws noise: give stages of one image model, or one for all as backbone=FOLDER",
                where,
                stage.file,
                card.backbone_source,
                source,
            )


@dataclass(frozen=True, slots=True)
class KeptStages:
    """The latents of stages in ``folder``, each under its name and a digest of all that made them: a command
    that is given again goes on from what is there. Without a folder nothing is kept."""

    folder: Path | None

    def drawn(self, name: str, made_by: Any, draw: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        """The stage's latents b f c h w, and whether they were there."""
        if self.folder is None:
            return draw(), False
        text = json.dumps(plain(made_by), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        path = self.folder / f"{name}-{digest}.safetensors"
        if path.is_file():
            return _read(path), True
        latents = draw().cpu().contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({LATENTS: latents}, metadata={"vgen_cascade": text}))
        return latents, False


def _read(path: Path) -> Tensor:
    try:
        return load_file(path)[LATENTS]
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(
            f"{path} holds no latents of a stage ({error}); remove it, and the stage is drawn again"
        ) from error


@dataclass(frozen=True, slots=True)
class Drawing:
    """What all stages have in common: the prompts, ``batch_size`` of them at a time."""

    prompts: Sequence[Prompt]
    batch_size: int

    def batches(self) -> list[slice]:
        starts = range(0, len(self.prompts), self.batch_size)
        return [slice(start, start + self.batch_size) for start in starts]

    def num_steps(self, checkpoint: Checkpoint, sampling: Sampling, fields: Mapping[str, Tensor]) -> int:
        """How often ``on_step`` is called for one clip after another, all batches counted."""
        return len(self.batches()) * num_steps(checkpoint.video_model, sampling, fields)

    def first(
        self,
        checkpoint: Checkpoint,
        sampling: Sampling,
        fields: Mapping[str, Tensor],
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Latents b f c h w of the first stage."""
        parts = [list(self.prompts[part]) for part in self.batches()]
        return torch.cat([checkpoint.latents(p, sampling, on_step, fields).cpu() for p in parts])

    def next(
        self,
        checkpoint: Checkpoint,
        plan: Planned,
        sampling: Sampling,
        before: Tensor,
        fields: Mapping[str, Tensor],
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """What a stage makes of ``before``, b f c h w."""
        name = plan.stage.name

        def draw(part: list[Prompt], more: Mapping[str, Tensor], num_frames: int, called: str) -> Tensor:
            now = replace(sampling, num_frames=num_frames)
            told = {**fields, **more}
            return checkpoint.latents(part, now, on_step, told, f"{name}/{called}")

        out = []
        for part in self.batches():
            rows = before[part].to(checkpoint.video_model.device)
            made = partial(draw, list(self.prompts[part]))
            out.append(plan.follows.drawn(made, rows, plan.stage.num_frames, plan.at_once).cpu())
        return torch.cat(out)


def sized(plan: Planned, checkpoint: Checkpoint, sampling: Sampling, before: Tensor) -> Sampling:
    """The stage's sampling at the size that it makes of ``before``. Raises ValueError where the UNet can't
    halve that often enough."""
    times = plan.follows.enlargement * checkpoint.model.vae_factor
    height, width = (times * side for side in before.shape[-2:])
    out = replace(sampling, height_px=height, width_px=width)
    latent_size(checkpoint.model, out)
    return out


def refuse_alone(checkpoint: Checkpoint) -> None:
    """Raises ValueError where the model draws nothing without a clip before it."""
    found = checkpoint.recipe.follows()
    if found is not None and not found.alone:
        raise ValueError(
            f"{type(checkpoint.recipe).__name__} makes something of a clip and draws none by itself; put "
            "it behind "
            "what draws one, with cascade.NAME.file=RUN"
        )


def settings_of(prompts: Sequence[Prompt], sampling: Sampling, by: Mapping[str, Any]) -> dict[str, Any]:
    """All that makes a stage's latents."""
    return {"prompts": [asdict(one) for one in prompts], "sampling": asdict(sampling), **by}
