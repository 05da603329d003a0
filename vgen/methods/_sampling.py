"""From prompts to clips with an assembled UNet: start noise, guidance, solver, windows, decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import check_scale
from vgen.diffusion.schedule import to_sample_and_noise
from vgen.diffusion.solvers import Solver, Spacing, solve
from vgen.diffusion.windows import Sliding, in_windows
from vgen.layers.motion_module import PositionalEncoding
from vgen.methods._objectives import Denoising
from vgen.spec import field, spec


@spec
class Sampling:
    """How clips are drawn. ``width_px`` and ``height_px`` 0 mean the model's own size; ``guidance`` 1 is the
    conditional model alone."""

    num_frames: int = 16
    num_steps: int = 25
    guidance: float = 7.5
    solver: Solver = Solver.DDIM
    spacing: Spacing = Spacing.AUTO
    width_px: int = 0
    height_px: int = 0
    window: Sliding = field(default_factory=Sliding)

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.num_steps < 1:
            raise ValueError(
                f"sampling needs num_frames and num_steps of at least 1, got {self.num_frames} and "
                f"{self.num_steps}"
            )
        check_scale(self.guidance)
        if self.width_px < 0 or self.height_px < 0:
            raise ValueError(
                f"width_px and height_px must not be negative, got {self.width_px} and {self.height_px}; 0 "
                "is the image model's own size"
            )


@dataclass(frozen=True, slots=True)
class Prompt:
    """``seed`` belongs to the clip, so that it does not matter, but for rounding, in which batch it is
    drawn."""

    text: str
    seed: int = 0
    negative: str = ""


def latent_size(model: ImageModel, sampling: Sampling) -> tuple[int, int]:
    """Height and width in latent cells; raises ValueError where the UNet cannot halve them often enough."""
    factor, halvings = model.vae_factor, 2 ** (len(model.unet.config["block_out_channels"]) - 1)
    out = []
    for name, px in (("height_px", sampling.height_px), ("width_px", sampling.width_px)):
        px = px or model.size_px
        if px % (factor * halvings):
            raise ValueError(
                f"{name} must be a multiple of {factor * halvings} for this image model, got {px}"
            )
        out.append(px // factor)
    return out[0], out[1]


def refuse_impossible(model: ImageModel, unet: VideoUNet, sampling: Sampling, key: str = "sampling") -> None:
    """What would fail in the first step of drawing fails here: sizes that the UNet can't halve, more frames
    at once than position rows."""
    latent_size(model, sampling)
    rows = position_rows(unet)
    at_once = min(sampling.num_frames, sampling.window.num_frames or sampling.num_frames)
    if rows is not None and at_once > rows:
        raise ValueError(
            f"{key}.num_frames={at_once} frames at once, but the motion module has {rows} position rows; "
            f"set {key}.window.num_frames={rows} to draw in sliding windows"
        )


def position_rows(unet: VideoUNet) -> int | None:
    """How many frames the inserted layers tell apart, None where they need no table."""
    return min(
        (m.pe.shape[1] for m in unet.inserted.modules() if isinstance(m, PositionalEncoding)), default=None
    )


@torch.no_grad()
def generate(
    model: ImageModel,
    unet: VideoUNet,
    objective: Denoising,
    prompts: list[Prompt],
    sampling: Sampling,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Clips in [-1, 1], ``b f 3 H W`` float32 on the CPU, one per prompt."""
    weight = next(unet.image_unet.parameters())
    h, w = latent_size(model, sampling)
    draws = Draws(0, [("clip", p.seed) for p in prompts])
    like = torch.empty(
        len(prompts), sampling.num_frames, model.unet.config["in_channels"], h, w, device=weight.device
    )
    context = model.encode_text([p.text for p in prompts])
    if sampling.guidance != 1:
        context = Context.cat([model.encode_text([p.negative for p in prompts]), context])
    context = context.to(weight.device, weight.dtype)

    def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        def predict(part: Tensor, _frames: range) -> Tensor:
            rows = part if sampling.guidance == 1 else torch.cat([part, part])
            out = unet(
                rows.to(weight.dtype), torch.full((len(rows),), t, device=weight.device), context
            ).float()
            if sampling.guidance == 1:
                return out
            without, given = out.chunk(2)
            # Ho & Salimans 2022, eq. 6; the raw output is affine in eps at fixed x_t
            return without + sampling.guidance * (given - without)

        out = in_windows(predict, x, sampling.window)
        alpha, sigma = objective.schedule.alpha_sigma(torch.tensor([t], device=x.device), x)
        on_step()
        return to_sample_and_noise(objective.prediction, out, x, alpha, sigma)

    latents = solve(
        denoiser,
        draws.normal("start", like),
        objective.schedule,
        sampling.num_steps,
        sampling.solver,
        sampling.spacing,
        noise=lambda i: draws.normal(f"step{i}", like),
    )
    return model.decode(latents).float().cpu()
