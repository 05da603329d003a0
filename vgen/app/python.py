"""vgen's verbs as functions: ``vgen.train``, ``vgen.generate``, ``vgen.edit``, ``vgen.evaluate``,
``vgen.prepare`` and ``vgen.load``.

Each takes the dataclass of its verb, or the verb's keys as keywords (``sampling={"num_steps": 10}``), and
returns what came of it. Loggers and warnings are as the caller has them; a training shows its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from vgen.app import composed
from vgen.app import edit as editing
from vgen.app import evaluate as evaluating
from vgen.app import generate as drawing
from vgen.app import prepare as preparing
from vgen.app import train as training
from vgen.app.config import TrainRun, offer_training
from vgen.app.edit_run import EditRun
from vgen.app.edited_clip import EditedClip
from vgen.app.evaluate import Evaluated, EvaluateRun
from vgen.app.generate import Clip, GenerateRun
from vgen.app.judging.evaluation import NO_SUITE
from vgen.app.judging.own_prompts import judge
from vgen.app.loading import SHIPPED, Checkpoint, open_checkpoint, refuse_undrawable
from vgen.data.clip_files import to_uint8
from vgen.data.prepare import Prepare, Prepared
from vgen.data.prepare import prepare as prepare_shards
from vgen.formats.adapter import load_adapter
from vgen.methods._sampling import Prompt, SamplingOverrides, refuse_impossible
from vgen.training.quiet import unheard

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that has ended. ``adapter`` is what it learnt, None where the image model itself learnt, which
    lies in ``folder/image_model`` then."""

    folder: Path

    @property
    def adapter(self) -> Path | None:
        path = self.folder / "adapter.safetensors"
        return path if path.is_file() else None

    @property
    def card(self) -> dict[str, Any]:
        """What it was trained on, for how long and on what, as the adapter's card has it."""
        return {} if self.adapter is None else load_adapter(self.adapter)[1].summary

    def load(self) -> Model:
        return load(self.folder)


@dataclass(frozen=True, slots=True)
class Model:
    """An image model with what was learnt in it, on its device."""

    checkpoint: Checkpoint

    def draw(self, prompt: str, *, seed: int = 0, negative: str = "", **sampling: Any) -> Clip:
        """One clip; ``sampling`` are its keys, as ``num_steps=10`` or ``guidance=3``. What is not given is
        the method's own, at the frames and the size of its training."""
        asked = self.checkpoint.sampling(SamplingOverrides(**sampling))
        refuse_impossible(self.checkpoint.video_model, asked)
        said = Prompt(prompt, seed=seed, negative=negative)
        [drawn] = self.checkpoint.sample([said], asked)
        card = {"prompt": prompt, "negative": negative, "seed": seed}
        return Clip(to_uint8(drawn), 8.0, card | {"adapter": self.checkpoint.name})


def load(
    adapter: str | Path = SHIPPED,
    *,
    backbone: str | Path | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Model:
    """A run's folder, an ``adapter.safetensors``, or the shipped adapter, in its image model."""
    with unheard():
        found = open_checkpoint(str(adapter), str(backbone) if backbone else None, device, dtype)
    refuse_undrawable(found)
    return Model(found)


def train(run: TrainRun | None = None, /, **keys: Any) -> Trained:
    """As ``vgen train``; on several devices start the command line."""
    wish = _wish(run, TrainRun, keys) or composed.settings("train", TrainRun, offer_training, keys)
    if wish.trainer.world_size > 1:
        raise ValueError(
            f"vgen.train runs in this process, which cannot be the {wish.trainer.world_size} processes of "
            f"trainer.strategy={wish.trainer.strategy.value}; start it with 'vgen train'"
        )
    with unheard():
        return Trained(training.train(wish))


def generate(run: GenerateRun | None = None, /, **keys: Any) -> list[Clip]:
    """As ``vgen generate``; files are written where ``out`` names a folder."""
    wish = _wish(run, GenerateRun, keys)
    wish = wish or composed.settings("generate", GenerateRun, drawing.offer, keys)
    with unheard():
        return drawing.clips_of(wish, _silent())


def edit(run: EditRun | None = None, /, **keys: Any) -> EditedClip:
    """As ``vgen edit``; files are written where ``out`` names a folder."""
    wish = _wish(run, EditRun, keys) or composed.settings("edit", EditRun, editing.offer, keys)
    with unheard():
        done = editing.edit(wish)
        if wish.out:
            done.save(wish.out)
        return done


def evaluate(run: EvaluateRun | None = None, /, **keys: Any) -> list[Evaluated]:
    """As ``vgen evaluate``: one report, or one for each point of the suite's grid."""
    wish = _wish(run, EvaluateRun, keys)
    wish = wish or composed.settings("evaluate", EvaluateRun, evaluating.offer, keys)
    with unheard():
        if wish.suite_name == NO_SUITE:
            return [Evaluated(wish.folder(), judge(wish, _silent()))]
        return evaluating.evaluate_points(wish, _silent())


def prepare(wish: Prepare | None = None, /, **keys: Any) -> Prepared:
    """As ``vgen prepare``; the folder's path goes to ``data.path`` of a training."""
    asked = _wish(wish, Prepare, keys) or composed.settings("prepare", Prepare, preparing.offer, keys)
    with unheard():
        return prepare_shards(asked)


def _wish(run: _T | None, schema: type[_T], keys: dict[str, Any]) -> _T | None:
    """The dataclass that was given; raises ValueError where keys stand beside it."""
    if run is None:
        return None
    if not isinstance(run, schema):
        raise ValueError(f"give a {schema.__name__} or its keys as keywords, got {type(run).__name__}")
    if keys:
        raise ValueError(f"give a {schema.__name__} or keys, not both; got {', '.join(keys)} beside it")
    return run


def _silent() -> Console:
    return Console(quiet=True)
