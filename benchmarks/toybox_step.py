"""A whole training step of the shipped toybox model (draws, forward, backward, clipping, Muon) on the machine
at hand.

    python benchmarks/toybox_step.py part=image batch=1024                    # the UNet on stills
    python benchmarks/toybox_step.py part=motion batch=64 frames=16 layout=last
    python benchmarks/toybox_step.py part=motion batch=2 frames=8 precision=fp32 steps=4 warm_up=1 threads=2

Random latents, autocast to bf16 (``precision=fp32``: none). Prints one JSON line: seconds a step, of them
forward and backward, and of those the time until the last kernel was queued ("host"): where the two are
equal, a GPU waits for Python.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from vgen.app.loading import TOYBOX, load_backbone
from vgen.backbones.image_model import Context
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.image.latent_diffusion import LatentDiffusion
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.peaks import peak_memory_gb

DEFAULTS = {
    "part": "image",
    "batch": "1024",
    "frames": "1",
    "precision": "bf16",
    "layout": "contiguous",
    "warm_up": "3",
    "steps": "12",
    "threads": "0",
}


def seconds(act: Callable[[], None], steps: int) -> tuple[float, float]:
    """Mean over ``steps`` calls: until the device is done, and until the host is."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        act()
    host = time.perf_counter() - began
    wait()
    return (time.perf_counter() - began) / steps, host / steps


def main() -> None:
    options = DEFAULTS | dict(a.split("=", 1) for a in sys.argv[1:])
    device, mixed = "cuda" if torch.cuda.is_available() else "cpu", options["precision"] == "bf16"
    if int(options["threads"]):
        torch.set_num_threads(int(options["threads"]))
    num, frames, frozen = (
        int(options["batch"]),
        int(options["frames"]),
        torch.bfloat16 if mixed else torch.float32,
    )
    model = load_backbone(TOYBOX)
    recipe = LatentDiffusion() if options["part"] == "image" else AnimateDiff()
    learner = Learner(recipe, model, Optimisation(kind=Optimiser.MUON, lr=1e-3), 0, 1000, frozen)
    for module in (*model.modules(), learner.unet):
        for parameter in module.parameters():
            parameter.data = parameter.data.to(device, parameter.dtype if parameter.requires_grad else frozen)
        for buffer in module.buffers():
            buffer.data = buffer.data.to(device)
    if options["layout"] == "last":
        learner.unet.image_unet.to(memory_format=torch.channels_last)
    learning = list(learner.learning.values())
    optimiser, _ = learner.optimisation.build(learning, 1000)
    tokens = torch.randn(
        num, model.tokenizer.model_max_length, model.unet.config["cross_attention_dim"]
    ).half()
    latents = torch.randn(num, frames, 4, 16, 16).half()
    batch = Batch(
        keys=[(str(i), 0) for i in range(num)], captions=[""] * num, latents=latents, context=Context(tokens)
    )

    def gradients() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)

    def step() -> None:
        gradients()
        optimiser.step()
        optimiser.zero_grad()

    for _ in range(int(options["warm_up"])):
        step()
    whole, _ = seconds(step, int(options["steps"]))
    both, host = seconds(gradients, int(options["steps"]))
    figures = {"step_s": whole, "forward_backward_s": both, "host_s": host, "peak_gb": peak_memory_gb()}
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(
        json.dumps(
            options
            | {"device": name, "torch": torch.__version__}
            | {k: round(v, 4) for k, v in figures.items()}
        )
    )


if __name__ == "__main__":
    main()
