"""Inversion and editing on the toybox, against diffusers' own attention without any edit.

    python benchmarks/editing.py rounds=9 frames=8 steps=10       # one JSON line
    python benchmarks/editing.py side=stock|fast|record memory=1  # peak memory of one side alone, in a fresh
    process

Three sides do the same number of UNet evaluations at the same shapes (inversion with one row, denoising with
two): ``stock`` is the bare UNet2DConditionModel with diffusers' processors, ``fast`` is ours with nothing
recorded or changed, ``record`` is FateZero: queries and keys are kept while inverting, self and cross maps
are replaced while denoising. Outputs of stock and fast are compared first; rounds are interleaved; each
side's time is the median.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import diffusers
import torch
from torch import Tensor

from vgen.app.loading import TOYBOX, load_backbone
from vgen.backbones.image_model import ImageModel
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import ddim_invert
from vgen.diffusion.schedule import to_sample_and_noise
from vgen.diffusion.solvers import solve
from vgen.diffusion.step_window import StepWindow
from vgen.methods import assemble
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import start_noise
from vgen.methods._sampling import Sampling
from vgen.methods._wishes import Wish
from vgen.methods.fatezero import FateZero

SOURCE, TARGET_TEXT = (
    "a large red circle moves right on a black background",
    "a large blue circle moves right on a black background",
)
GUIDANCE = 3.0


class Bench:
    def __init__(self, options: dict[str, str]) -> None:
        self.frames, self.steps = int(options.get("frames", 8)), int(options.get("steps", 10))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.stock_model, self.model = (load_backbone(TOYBOX).to(self.device) for _ in range(2))
        side = self.model.unet.config.sample_size
        self.latents = start_noise(self.model, self.frames, (side, side), 1, self.device) * 0.5
        always = StepWindow()
        self.recipe = FateZero(
            cross=always,
            self_attention=always,
            frames=[],
            reconstruct=False,
        )
        self.session = self._session()
        self.schedule, self.prediction = self.session.video_model.process()

    def _session(self) -> EditSession:
        video_model = assemble(self.recipe, self.model)
        video_model.unet.requires_grad_(False)
        return EditSession(
            video_model=video_model,
            sampling=Sampling(num_steps=self.steps, guidance=GUIDANCE),
            wish=Wish(source=SOURCE, target=TARGET_TEXT),
            noise=torch.zeros_like(self.latents),
            latents=self.latents,
        )

    @torch.no_grad()
    def stock(self) -> Tensor:
        """diffusers' UNet, its processors, frames as a batch and text repeated for each."""
        model: ImageModel = self.stock_model
        source = model.encode_text([SOURCE]).tokens.repeat(self.frames, 1, 1)
        both = torch.cat([model.encode_text([p]).tokens.repeat(self.frames, 1, 1) for p in ("", TARGET_TEXT)])

        def asked(text: Tensor, rows: int) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
            def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
                out = model.unet(x[0].repeat(rows, 1, 1, 1), t, text, return_dict=False)[0]
                if rows == 2:
                    null, given = out.chunk(2)
                    out = null + GUIDANCE * (given - null)
                alpha, sigma = self.schedule.alpha_sigma(torch.tensor([t], device=x.device), x)
                return to_sample_and_noise(self.prediction, out[None], x, alpha, sigma)

            return denoiser

        start = ddim_invert(asked(source, 1), self.latents, self.schedule, self.steps).start
        return solve(asked(both, 2), start, self.schedule, self.steps)

    @torch.no_grad()
    def fast(self) -> Tensor:
        own = self.session
        given = own.encoded(TARGET_TEXT)
        return own.sample(own.invert(SOURCE).start, lambda _: given, Cfg(scale=GUIDANCE))

    @torch.no_grad()
    def record(self) -> Tensor:
        return self.recipe.edit(self.session).latents


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    bench = Bench(options)
    on_gpu = bench.device.type == "cuda"
    processor = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    facts = {
        "device": torch.cuda.get_device_name() if on_gpu else processor,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "frames": bench.frames,
        "steps": bench.steps,
    }
    if "memory" in options:
        getattr(bench, options["side"])()
        peak = (
            torch.cuda.max_memory_allocated()
            if on_gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(json.dumps(facts | {"side": options["side"], "peak_mib": round(peak / 2**20)}))
        return
    difference = (bench.stock() - bench.fast()).abs().max().item()
    times: dict[str, list[float]] = {"stock": [], "fast": [], "record": []}
    for _ in range(int(options.get("rounds", 9))):
        for name, taken in times.items():
            began = time.perf_counter()
            getattr(bench, name)()
            if bench.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {
        name: [a / b for a, b in zip(times[name], times["stock"], strict=True)] for name in ("fast", "record")
    }
    print(
        json.dumps(
            facts
            | {
                "largest_difference": difference,
                "seconds": {k: round(v, 3) for k, v in median.items()},
                "ratio": {
                    k: [round(q, 3) for q in (min(v), statistics.median(v), max(v))]
                    for k, v in ratios.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
