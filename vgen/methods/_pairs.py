"""Pictures before and after an edit, drawn as pairs (Brooks et al. 2023, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from vgen.attention.edits import CopySelf, Sibling
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.solvers import Solver
from vgen.diffusion.step_window import StepWindow
from vgen.methods._edit_session import PAIR, Acting, EditSession
from vgen.methods._editing import start_noise
from vgen.methods._sampling import Sampling, latent_size
from vgen.methods._video_model import VideoModel
from vgen.methods._wishes import Wish
from vgen.spec import spec


@spec
class PairDraw:
    """One candidate. In the first ``share`` of the steps both pictures have the source's self-attention; the
    noise of ``seed`` is theirs in common, that of the start and that of every step."""

    seed: int
    share: float
    guidance: float
    num_steps: int = 100
    size_px: int = 0


@torch.no_grad()
def draw_pair(video_model: VideoModel, source: str, target: str, how: PairDraw) -> Tensor:
    """Pixels in [-1, 1] of both pictures, 2 3 H W."""
    sampling = Sampling(
        num_frames=1,
        num_steps=how.num_steps,
        guidance=how.guidance,
        solver=Solver.EULER_ANCESTRAL,
        width_px=how.size_px,
        height_px=how.size_px,
    )
    size = latent_size(video_model.model, sampling)
    session = EditSession(
        video_model=video_model,
        wish=Wish(source=source, target=target),
        noise=start_noise(video_model.model, 1, size, how.seed, video_model.device),
        sampling=sampling,
        seed=how.seed,
    )
    encoded = session.encoded(source, target)
    alike = CopySelf(source=Sibling(), window=StepWindow(end=how.share))
    latents = session.sample(
        session.noise,
        lambda _: encoded,
        Cfg(scale=how.guidance),
        branches=PAIR,
        acting=Acting(edits=[alike]),
    )
    return video_model.decode(latents)[:, 0]
