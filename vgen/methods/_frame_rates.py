"""Denoising of stills that have captions and of clips that have none, at frame rates of their own (Singer et
al. 2022, Make-A-Video, sections 3 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from vgen.conditions.context_frames import GivenFrames
from vgen.conditions.fps import FPS, FrameRates
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import TEXT, Drop
from vgen.methods._objectives import Denoising
from vgen.methods._video_model import VideoModel

ALWAYS = 1.0


@dataclass(slots=True, kw_only=True)
class StillsAndClips(Denoising):
    """A batch of stills is denoised as images are. Of a clip some frames are kept, as ``rates`` draws them;
    where clips are ``unlabelled`` their captions stay unheard."""

    rates: FrameRates = field(default_factory=FrameRates)
    unlabelled: bool = True

    def undropped(self) -> StillsAndClips:
        return replace(self, dropout=[], unlabelled=False)

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        latents = video_model.prepare(batch.fields_by_name())["latents"]
        if latents.shape[1] == 1:
            return self._of(None, self.dropout).loss(video_model, with_latents(batch, latents), draws)
        skips = self.rates.skips(draws, latents.device)
        part = with_latents(batch, self.rates.cut(latents, skips))
        part.fields[FPS] = (frame_rate(batch) / skips.cpu()).float()
        drops = [Drop(ALWAYS, frozenset({TEXT}))] if self.unlabelled else self.dropout
        return self._of(self.given_frames, drops).loss(video_model, part, draws)

    def _of(self, given: GivenFrames | None, drops: Sequence[Drop]) -> Denoising:
        return Denoising(dropout=drops, timestep_shift=self.timestep_shift, given_frames=given)


def frame_rate(batch: Batch) -> Tensor:
    """Frames per second of a batch's clips, b. Raises ValueError where they do not say it."""
    if batch.rates is None:
        raise ValueError(
            f"the frame rate of sample {batch.keys[0][0]!r} or of another of its batch is not known: its "
            ".json has no fps, or the latent cache is of a vgen that kept none; write it there, or remove "
            "the folder .cache beside the shards"
        )
    at = batch.at
    step = 1 if at is None or at.shape[1] < 2 else at[:, 1] - at[:, 0]
    return batch.rates / step


def with_latents(batch: Batch, latents: Tensor) -> Batch:
    """The batch with latents in its video's place."""
    kept = {name: value for name, value in batch.fields.items() if name not in ("video", "latents")}
    out = Batch(keys=batch.keys, captions=batch.captions, latents=latents, fields=kept)
    out.present = {name: there for name, there in batch.present.items() if name in kept}
    return out
