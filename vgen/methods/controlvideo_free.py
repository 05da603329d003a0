"""ControlVideo, training-free: an image model with a ControlNet draws a clip along its control pictures
(Zhang et al. 2023).

Every self-attention of the UNet reads all frames; the ControlNet sees frame by frame. All frames start from
one noise. At two steps an interleaved smoother puts every other frame half way between its neighbours. A long
clip is drawn hierarchically: keys together, then the frames between two keys. Trains nothing and needs no
clip. The released hierarchy reads the first key and the last frame of each part, not both keys as the paper
says: ``between=keys`` is the paper's. RIFE's weights are not at hand: midpoints follow optical flow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.flow import halfway
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import FrameSchedule, Hierarchical, Role, Sliding
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.smoother import Midpoint, Smoother, SmootherSpec
from vgen.diffusion.solvers import StepHooks
from vgen.diffusion.start import Iid, Shared, Start
from vgen.diffusion.step_window import StepWindow
from vgen.layers.norm import NormScope
from vgen.methods._edit_session import Acting, EditSession
from vgen.methods._editing import Edited, Editing
from vgen.methods._recipe import UNET, Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.spec import Choice, field, spec


class Between(Choice):
    """What frames between two keys read: both ``keys`` (the paper), or the first key and the ``last`` frame
    of their part (the released code)."""

    KEYS = "keys"
    LAST = "last"


class Interpolator(Choice):
    """How a frame between two others is made: along their optical ``flow``, or as their ``mean``."""

    FLOW = "flow"
    MEAN = "mean"


@method(
    "controlvideo_free",
    paper=Paper("ControlVideo: Training-free Controllable Text-to-Video Generation", "2305.13077", 2023),
    regime=Regime.EDIT,
)
@spec
class ControlVideoFree(Recipe, Editing):
    """``frames_read`` are those that self-attention reads: all, or as few as the paper's ablation tries.
    ``clip_length`` is that of the hierarchy's parts, keys included; 0 is the square root of the clip's
    length. ``suffix`` is put behind the prompt and ``negative`` says what is not wanted; the released script
    has texts of its own for both. The released nets pool the norms of their residual blocks over frames."""

    along_pictures: ClassVar[bool] = True
    frames_read: list[Frame] = field(default_factory=lambda: [Frame.ALL])
    between: Between = Between.LAST
    clip_length: int = 0
    shared_noise: bool = True
    smoother: SmootherSpec = field(default_factory=SmootherSpec)
    interpolator: Interpolator = Interpolator.FLOW
    image_norm_scope: NormScope = NormScope.CLIP
    suffix: str = ""
    negative: str = ""

    def __post_init__(self) -> None:
        Hierarchical(clip=self.clip_length)

    def start(self) -> Start:
        return Shared() if self.shared_noise else Iid()

    def frame_schedule(self, window: Sliding) -> FrameSchedule:
        return Hierarchical(num_frames=window.num_frames, clip=self.clip_length)

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        if self.between is Between.KEYS:
            between = FrameKeys(frames=[], key_frames=[0, 1], roles=[Role.BETWEEN])
        else:
            between = FrameKeys(frames=[Frame.FIRST, Frame.LAST], roles=[Role.BETWEEN])
        return {UNET: [between, FrameKeys(frames=self.frames_read)]}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def beside_norms(self) -> NormScope:
        return self.image_norm_scope

    def sampling(self) -> Sampling:
        return Sampling(num_frames=15, num_steps=50, guidance=12.5)

    def prompts(self) -> list[str]:
        return [self.negative]

    def edit(self, session: EditSession) -> Edited:
        encoded = session.encoded(session.wish.target + self.suffix, negative=self.negative)
        latents = session.sample(
            session.noise,
            lambda _: encoded,
            Cfg(scale=session.sampling.guidance),
            acting=Acting(edits=session.words.amplified(StepWindow())),
            hooks=StepHooks(on_sample=(self._smoother(session),)),
        )
        return Edited(latents, report={"smoothed_steps": list(self.smoother.steps(session.num_steps))})

    def _smoother(self, session: EditSession) -> Smoother:
        model = session.model

        def encode(pixels: Tensor, seeds: list[int] | None) -> Tensor:
            if seeds is None:
                return model.encode(pixels[None])[0]
            drawn = [
                model.encode(frame[None, None], torch.Generator().manual_seed(seed))[0]
                for frame, seed in zip(pixels, seeds, strict=True)
            ]
            return torch.cat(drawn)

        def seeds(step: int) -> list[int]:
            frames = [(f"frame {i}", session.seed) for i in range(session.num_frames)]
            return Draws(step, frames).integers("smoother", 2**31 - 1, torch.device("cpu")).tolist()

        return Smoother(
            settings=self.smoother,
            num_steps=session.num_steps,
            midpoint=_MIDPOINTS[self.interpolator],
            decode=lambda latents: model.decode(latents[None])[0],
            encode=encode,
            seeds=seeds,
        )


def mean(first: Tensor, second: Tensor) -> Tensor:
    return (first + second) / 2


def along_flow(first: Tensor, second: Tensor) -> Tensor:
    """Frame by frame, on the CPU, where the flow is estimated."""
    pairs = [(x.double().cpu().permute(0, 2, 3, 1) + 1) * 127.5 for x in (first, second)]
    made = [torch.from_numpy(halfway(a.numpy(), b.numpy())) for a, b in zip(*pairs, strict=True)]
    return (torch.stack(made).permute(0, 3, 1, 2) / 127.5 - 1).to(first)


_MIDPOINTS: dict[Interpolator, Midpoint] = {Interpolator.FLOW: along_flow, Interpolator.MEAN: mean}
