"""One training step of motion modules, ours against diffusers' UNetMotionModel: same weights, inputs, noise
and autocast.

With precision=bf16 both run under bf16 autocast; ours holds frozen weights in bf16, as vgen does, the peer's
stay fp32, as loaded, and its AdamW is torch's default, not the fused one: what each side's user gets.
``peer=cast`` gives the peer both.

    python benchmarks/step_time.py size=toybox rounds=9            # toybox | narrow160 | sd15
    python benchmarks/step_time.py size=sd15 whole=true            # encoders (SD-1.5's, but toybox) in the
    peer's loop, cached in ours
    python benchmarks/step_time.py size=toybox memory=ours|theirs  # peak memory of one side alone, in a fresh
    process
    python benchmarks/step_time.py size=sd15 allocator=keep        # both sides on memory that stays with
    them, as vgen does on CPUs
    python benchmarks/step_time.py size=sd15 precision=bf16 frames=16 latent=64 alone=true
    [checkpointing=true]  # ours: FLOP/s, memory

Outputs are compared before anything is timed. Steps are interleaved and each side's time is the median over
rounds; on a GPU the clock is stopped after a synchronisation. Prints one JSON line with hardware and
versions.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch.utils.flop_counter import FlopCounterMode

from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import Context, ImageModel
from vgen.formats import diffusers_motion
from vgen.layers.motion_module import MotionModuleSpec
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods.animatediff import AnimateDiff
from vgen.training.allocator import keep_freed_memory
from vgen.training.peaks import peak_memory_gb

FRAMES, LATENT_PX = 8, 16  # 8 frames of 128 px at Stable Diffusion's VAE factor; options frames= and latent=
PEAK_TFLOPS = 989.0  # dense bf16 of one H100 or H200 SXM, by NVIDIA's data sheet: what "mfu" is a share of


def image_unet(size: str) -> UNet2DConditionModel:
    if size == "toybox":
        return blank_unet(Blank.TOYBOX)
    if size == "sd15":
        return blank_unet(Blank.SD15)
    down, up = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(160, 320, 640, 640),
        cross_attention_dim=768,
        attention_head_dim=8,
        down_block_types=down,
        up_block_types=up,
    )


class Bench:
    """Both sides over one image UNet's weights."""

    def __init__(self, options: dict[str, str]) -> None:
        self.size, self.device = options.get("size", "toybox"), "cuda" if torch.cuda.is_available() else "cpu"
        self.autocast = options.get("precision", "fp32") == "bf16"
        self.frames = int(options.get("frames", FRAMES))
        self.cast_peer = options.get("peer") == "cast"
        self.checkpointing = options.get("checkpointing") == "true"
        torch.manual_seed(0)
        self.unet = image_unet(self.size).requires_grad_(False).eval()
        self.shape(int(options.get("batch", 1)), int(options.get("latent", LATENT_PX)))
        self.recipe = AnimateDiff(
            motion=MotionModuleSpec(norm_scope=NormScope.CLIP)
        )  # diffusers pools its motion norms over frames
        self.learnt = self._weights()

    def shape(self, batch: int, side: int) -> None:
        """New inputs for both sides: ``batch`` clips of ``side`` latent cells."""
        self.batch, self.side, width = batch, side, self.unet.config.cross_attention_dim
        self.x = torch.randn(batch, self.frames, 4, side, side, device=self.device)
        self.noise = torch.randn_like(self.x)
        self.t = torch.randint(1000, (batch,), device=self.device)
        self.text = torch.randn(batch, 77, width, device=self.device)

    def _weights(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        unet = assemble(self.recipe, self._model(self.unet)).unet
        for layer in unet.inserted.values():
            torch.nn.init.normal_(layer.temporal_transformer.proj_out.weight, std=0.02)
        out = {
            f"unet.{n}": p.detach().clone() for n, p in unet.named_parameters() if n.startswith("inserted.")
        }
        unet.eject()
        return out

    @staticmethod
    def _model(unet: UNet2DConditionModel) -> ImageModel:
        return ImageModel(
            unet=unet,
            vae=None,
            text_encoders=[],
            tokenizer=None,
            scheduler_config={"prediction_type": "epsilon"},
        )

    def ours(self) -> tuple[Callable[[], torch.Tensor], Callable[[], None]]:
        unet = assemble(self.recipe, self._model(self.unet)).unet
        named = {f"unet.{n}": p for n, p in unet.named_parameters()}
        with torch.no_grad():
            for name, value in self.learnt.items():
                named[name].copy_(value)
        self.own = unet.to(self.device)
        if self.checkpointing:
            unet.train()
            unet.enable_gradient_checkpointing()
        if self.autocast:
            unet.image_unet.to(torch.bfloat16)
        learning = [p.requires_grad_(True) for n, p in named.items() if n in self.learnt]
        optimiser = torch.optim.AdamW(learning, lr=1e-5, fused=True)
        dtype = next(unet.image_unet.parameters()).dtype

        def forward() -> torch.Tensor:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
                given = Conditioning(Context(self.text).to(self.device, dtype))
                return unet(self.x.to(dtype), self.t, given).float()

        return forward, lambda: self._step(forward, optimiser)

    def theirs(self) -> tuple[Callable[[], torch.Tensor], Callable[[], None]]:
        arguments = diffusers_motion.config(
            self.unet, {"num_attentions": 2, "num_blocks": 1, "heads": 8, "num_positions": 32}, False
        )
        adapter = MotionAdapter(**arguments)
        adapter.load_state_dict(diffusers_motion.export(self.learnt, self.unet, arguments))
        model = UNetMotionModel.from_unet2d(self.unet, adapter).to(self.device)
        model.requires_grad_(False)
        learning = [p.requires_grad_(True) for n, p in model.named_parameters() if "motion_modules" in n]
        assert sum(p.numel() for p in learning) == sum(v.numel() for v in self.learnt.values())
        if self.cast_peer:
            for name, p in model.named_parameters():
                if "motion_modules" not in name:
                    p.data = p.data.to(torch.bfloat16)
        optimiser = torch.optim.AdamW(learning, lr=1e-5, fused=self.cast_peer)

        def forward() -> torch.Tensor:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
                text = self.text.repeat_interleave(self.frames, 0)
                return (
                    model(self.x.transpose(1, 2), self.t, text, return_dict=False)[0].transpose(1, 2).float()
                )

        return forward, lambda: self._step(forward, optimiser)

    def _step(self, forward: Callable[[], torch.Tensor], optimiser: torch.optim.Optimizer) -> None:
        torch.nn.functional.mse_loss(forward(), self.noise).backward()
        optimiser.step()
        optimiser.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()


def encoding(bench: Bench) -> Callable[[], None]:
    """What the peer's loop does before every step, and ours did once: VAE on the frames, text encoder on the
    caption.

    In the precision of the autocast. Every size but the toybox's gets Stable Diffusion 1.5's VAE and text
    encoder.
    """
    model = blank(Blank.TOYBOX if bench.size == "toybox" else Blank.SD15)
    model.unet = blank_unet(Blank.TOYBOX)  # the peer has its own: this one would only take memory
    model.freeze().to(bench.device, torch.bfloat16 if bench.autocast else torch.float32)
    side = bench.side * model.vae_factor
    video = (torch.rand(bench.batch, bench.frames, 3, side, side, device=bench.device) * 2 - 1).to(
        model.vae.dtype
    )

    @torch.no_grad()
    def run() -> None:
        model.encode(video)
        model.encode_text(["a small red circle moves left"] * bench.batch)

    return run


def alone(bench: Bench, rounds: int) -> dict[str, object]:
    """Our step: median time, the arithmetic it does as torch counts it (recomputed blocks included), and peak
    memory."""
    _, step = bench.ours()
    with FlopCounterMode(display=False) as counter:
        step()
    step()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    seconds, flops = statistics.median(times), counter.get_total_flops()
    low, _, high = statistics.quantiles(times, n=4)
    out = {
        "checkpointing": bench.checkpointing,
        "median_s": round(seconds, 4),
        "quartiles_s": [round(low, 4), round(high, 4)],
        "tflop": round(flops / 1e12, 3),
        "tflop_per_s": round(flops / seconds / 1e12, 1),
        "peak_gb": round(peak_memory_gb(), 2),
    }
    return out | ({"mfu": round(flops / seconds / 1e12 / PEAK_TFLOPS, 3)} if bench.device == "cuda" else {})


def forget_peak() -> Callable[[], float]:
    """Peak memory in GB from now on, when called: building a side needs more for a moment than stepping
    it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return peak_memory_gb
    status = Path("/proc/self/status")
    if not status.is_file():
        return (
            peak_memory_gb  # elsewhere than on Linux a process can't forget its peak: that of building counts
        )
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")

    def peak() -> float:
        return (
            int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
            / 2**20
        )

    return peak


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    if options.get("allocator") == "keep" and not keep_freed_memory():
        raise SystemExit("allocator=keep needs glibc's mallopt, which this C library does not have")
    bench = Bench(options)
    facts = {
        "size": bench.size,
        "precision": options.get("precision", "fp32"),
        "batch": bench.batch,
        "frames": bench.frames,
        "latent": bench.side,
        "threads": torch.get_num_threads(),
        "allocator": options.get("allocator", "default"),
        "peer": options.get("peer", "as loaded"),
        "device": torch.cuda.get_device_name()
        if bench.device == "cuda"
        else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    if "memory" in options:
        _, step = getattr(bench, options["memory"])()
        bench.unet, bench.learnt = (
            None,
            {},
        )  # diffusers copied the image model, ours holds it: neither side pays for our materials
        forget = forget_peak()
        for _ in range(3):
            step()
        found = {"side": options["memory"], "peak_gb": round(forget(), 3)}
        print(json.dumps(facts | found))
        return
    if options.get("alone") == "true":
        print(json.dumps(facts | alone(bench, int(options.get("rounds", 9)))))
        return
    before = encoding(bench) if options.get("whole") == "true" else lambda: None
    (theirs_forward, theirs), (ours_forward, ours) = bench.theirs(), bench.ours()
    with torch.no_grad():
        difference = float((theirs_forward() - ours_forward()).abs().max())
    if difference > (5e-2 if bench.autocast else 1e-4):
        raise SystemExit(
            f"outputs differ by {difference}: the two sides do not compute the same, nothing is timed"
        )
    sides: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "ours": (lambda: None, ours),
        "theirs": (before, theirs),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(int(options.get("rounds", 9)) + 2):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            prepare, step = sides[name]
            began = time.perf_counter()
            prepare()
            step()
            if number >= 2:
                times[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(times["ours"], times["theirs"], strict=True)]
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    quartiles = statistics.quantiles(ratios, n=4)
    print(
        json.dumps(
            facts
            | {
                "whole": options.get("whole", "false"),
                "output_difference": difference,
                "rounds": len(ratios),
                "median_s": medians,
                "ratio_of_medians": round(medians["ours"] / medians["theirs"], 3),
                "ratio_quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
            }
        )
    )


if __name__ == "__main__":
    main()
