"""Editing methods on the toybox's edit suite (O4): EDIT and its parts, against a copy of the source and against editing frame by frame.

    python benchmarks/toybox_edits.py n=64 methods=copy,ddim,p2p,fatezero frames=8 steps=20 guidance=3
    python benchmarks/toybox_edits.py n=8 methods=tav steps_tuned=200           # tunes on every clip first

``copy`` hands the source back, ``ddim`` is inversion and another prompt frame by frame, ``p2p`` Prompt-to-Prompt frame by frame (fast
mode), ``fatezero`` FateZero with the middle frame, ``first`` the same edit with the keys of the first frame everywhere, ``tav``
Tune-A-Video. Every clip has the same start on all sides. Prints one JSON line with means, 95 % bootstrap intervals and paired
differences to ``p2p``, and writes the rows to ``out`` (scores.jsonl); rows that are there already are not drawn again.
"""
from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from vgen.app.loading import TOYBOX, load_backbone
from vgen.attention.keys import Frame
from vgen.backbones.image_model import ImageModel
from vgen.data.clip_files import to_uint8
from vgen.diffusion.draws import Draws
from vgen.diffusion.inversion import NullText
from vgen.diffusion.step_window import StepWindow
from vgen.methods import assemble
from vgen.methods._editing import EditSession, Wish, start_noise
from vgen.methods._objectives import Batch
from vgen.methods.fatezero import FateZero
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.methods.tune_a_video import TuneAVideo
from vgen.metrics.editing import score_edit
from vgen.metrics.statistics import interval, paired_difference
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.metrics.temporal_consistency import temporal_consistency
from vgen.toybox.oracle import read
from vgen.toybox.renderer import render
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation

SHOWN = ("edit", "edit_strict", "edit_acc", "keep_acc", "traj", "bg", "oracle_psnr", "tc")


class Bench:
    def __init__(self, options: dict[str, str]) -> None:
        self.steps, self.guidance = int(options.get("steps", 20)), float(options.get("guidance", 3))
        self.tuned, self.lr = int(options.get("steps_tuned", 200)), float(options.get("lr", 3e-4))
        self.backbone = options.get("backbone", TOYBOX)
        cross, self_attention = (StepWindow(end=float(options.get(name, default))) for name, default in (("cross", 0.8), ("self", 0.5)))
        both = {"num_steps": self.steps, "guidance": self.guidance, "cross": cross, "self_attention": self_attention}
        never = StepWindow(end=0.0)
        fast = NullText(inner_steps=0)
        self.recipes = {
            "ddim": PromptToPrompt(num_steps=self.steps, guidance=self.guidance, cross=never, self_attention=never, null_text=fast),
            "p2p": PromptToPrompt(**both, null_text=fast), "fatezero": FateZero(**both, reconstruct=False),
            "first": FateZero(**both, frames=[Frame.FIRST], from_level=0, reconstruct=False),
            "tav": TuneAVideo(num_steps=self.steps, guidance=self.guidance, reconstruct=False),
        }

    def model(self) -> ImageModel:
        return load_backbone(self.backbone)

    def rows(self, method: str, task: Task) -> dict[str, float | None]:
        pair, model = task.about, self.model()
        source = render(pair.scene, 64).video
        pixels = torch.tensor(source).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            latents = model.encode(pixels).float()
            through = to_uint8(model.decode(latents)[0])
        edited = source if method == "copy" else self._edited(method, model, latents, Wish(source=pair.source, target=pair.target))
        consistency = temporal_consistency(read(edited, task.scene.stride_ticks), task.scene, edited)
        return {**score_edit(source, edited, pair, through), **consistency}

    def _edited(self, method: str, model: ImageModel, latents: torch.Tensor, wish: Wish):  # noqa: ANN202
        recipe = self.recipes[method]
        if method == "tav":
            unet = self._tune(model, latents, wish.source)
        else:
            unet = assemble(recipe, model)
        unet.requires_grad_(False)
        noise = start_noise(model, latents.shape[1], tuple(latents.shape[-2:]), 0, latents.device)
        session = EditSession(model=model, unet=unet, objective=recipe.objective(model), wish=wish, noise=noise, latents=latents)
        done = recipe.edit(session)
        with torch.no_grad():
            return to_uint8(model.decode(done.latents)[0])

    def _tune(self, model: ImageModel, latents: torch.Tensor, caption: str):  # noqa: ANN202
        """One-shot tuning without the trainer's files: the same learner, objective and optimiser."""
        learner = Learner(self.recipes["tav"], model, Optimisation(lr=self.lr), seed=0, max_steps=self.tuned)
        optimiser, _ = learner.optimisation.build(list(learner.learning.values()), self.tuned)
        context = model.encode_text([caption])
        for step in range(self.tuned):
            batch = Batch(keys=[("clip", step)], captions=[caption], latents=latents, context=context)
            optimiser.zero_grad()
            learner.objective.loss(model, learner.unet, batch, Draws(0, batch.keys))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(list(learner.learning.values()), 1.0)
            optimiser.step()
        return learner.unet


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    bench, n = Bench(options), int(options.get("n", 64))
    methods = options.get("methods", "copy,ddim,p2p,fatezero").split(",")
    frames = int(options.get("frames", 8))
    todo = tasks(Suite(kind=Kind.EDIT, iid=n, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=frames, stride_ticks=2))
    out = Path(options.get("out", "outputs/toybox_edits")) / "scores.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {(r["method"], r["id"]): r for r in map(json.loads, out.read_text().splitlines())} if out.is_file() else {}
    seconds: dict[str, float] = {}
    for method in methods:
        began = time.perf_counter()
        for task in todo:
            if (method, task.id) not in found:
                row = {"method": method, "id": task.id, "edit_kind": task.about.edit.value, **bench.rows(method, task)}
                found[method, task.id] = row
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        seconds[method] = round(time.perf_counter() - began, 1)
    per = {m: [found[m, task.id] for task in todo] for m in methods}
    print(json.dumps({
        "n": len(todo), "options": options, "seconds": seconds,
        "methods": {m: {k: _words(interval([r[k] for r in rows])) for k in SHOWN} for m, rows in per.items()},
        "minus p2p": {
            m: {k: _words(paired_difference([r[k] for r in rows], [r[k] for r in per["p2p"]])) for k in ("edit", "tc")}
            for m, rows in per.items() if "p2p" in per and m != "p2p"
        },
    }))


def _words(found) -> str | None:  # noqa: ANN001
    return None if found.mean is None else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
