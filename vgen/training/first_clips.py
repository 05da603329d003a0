"""A look at one clip of each part, before anything is learnt."""

from __future__ import annotations

import numpy as np

from vgen.data.mixture import refuse_other_size
from vgen.methods import Regime
from vgen.training.corpus import Split
from vgen.training.job import Job


def check_clips(job: Job, parts: Split) -> dict[str, int]:
    """One clip of each part is read and cut: what is held out would else be looked at for the first time in
    the first validation. Returns the frames and the size that training shows, where it shows clips."""
    shown: dict[str, int] = {}
    seen = job.corpus.path or job.corpus.video or job.corpus.images
    named = [(parts.train, seen), (parts.val, job.corpus.val_path or seen)]
    if parts.prior is not None:
        named.append((parts.prior, job.corpus.prior_path or ""))
        refuse_other_size(parts.train[0, 0], parts.prior[0, 0], job.corpus.prior_path or "")
    for clips, path in named:
        video = clips[0, 0].video
        if video is not None and (job.recipe.runs_unet() or job.corpus.cache):
            _check_size(job, video, path)
            height, width = video.shape[2:]
            if clips is parts.train and job.recipe.regime is not Regime.IMAGE:
                shown = {"num_frames": job.corpus.window.num_frames, "width_px": width, "height_px": height}
    return shown


def _check_size(job: Job, video: np.ndarray, path: str) -> None:
    height, width = video.shape[2:]
    multiple = job.model.vae_factor * 2 ** (len(job.model.unet.config["block_out_channels"]) - 1)
    if height % multiple or width % multiple:
        raise ValueError(
            f"clips of {path} are {width} x {height} px; this image model needs multiples of {multiple}: "
            f"prepare them with size_px={job.model.size_px}"
        )
