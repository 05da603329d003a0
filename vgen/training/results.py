"""What a run leaves behind: an adapter, an image model, and at which step they were written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from vgen.backbones.image_model_folder import save
from vgen.backbones.latents import plain_units, standardise
from vgen.data.batch import Batch
from vgen.data.files import write_whole
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.training.checkpoints import refuse_diverged
from vgen.training.job import Job
from vgen.training.learner import Learner

log = logging.getLogger(__name__)


FACTS = "vgen.json"
"""Its name in image_model/."""


def written_at(job: Job) -> int | None:
    """The step at which the run's result was written."""
    if job.recipe.writes().image_model:
        facts = job.folder / "image_model" / FACTS
        return json.loads(facts.read_text()).get("steps") if facts.is_file() else None
    adapter = job.folder / "adapter.safetensors"
    return load_adapter(adapter)[1].summary.get("steps") if adapter.is_file() else None


def write_results(
    job: Job, learner: Learner, values: dict[str, Tensor], card: Card, val: Iterable[Batch]
) -> None:
    """What was learnt, as what others load."""
    refuse_diverged(values, "at the end")
    if job.recipe.writes().image_model:
        with torch.no_grad():
            for name, value in values.items():
                learner.learning[name].copy_(value)
        learner.put_back()
        finish_image_model(job, learner, val, card)
    if job.recipe.writes().adapter:
        values = job.recipe.kept(values)
        save_adapter(job.folder / "adapter.safetensors", values, card)
        log.info("wrote %s (%d tensors)", job.folder / "adapter.safetensors", len(values))


def finish_image_model(job: Job, learner: Learner, val: Iterable[Batch], card: Card) -> None:
    """Write the image model; where its latents changed they are standardised, so that every channel meets the
    noise on equal terms."""
    if any(name.startswith(("vae.encoder.", "vae.quant_conv.")) for name in learner.learning):
        with torch.no_grad():
            plain_units(job.model.vae)
            latents = torch.cat(
                [job.model.encode(batch.pixels(job.model.vae.device)).flatten(0, 1) for batch in val]
            )
        standardise(job.model.vae, latents)
    facts = job.folder / "image_model" / FACTS
    facts.unlink(missing_ok=True)  # it says that the folder is whole
    save(job.model, facts.parent)
    said = {"run": job.plain, "steps": job.settings.max_steps, "held_out": card.summary["held_out"]}
    write_whole(facts, json.dumps(said, indent=2).encode())
    log.info("wrote %s", job.folder / "image_model")
