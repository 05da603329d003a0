"""What the words are worth to an image model: its denoising loss on stills of the toybox, and how much it
rises with a wrong word.

    python benchmarks/word_gap.py backbones=toybox,runs/leg/image_model things=2 n=256
    levels=500,650,750,850,930

One line a level: the loss with the right caption, then by kind of fact how much more (standard error) a
caption costs in which two like facts are exchanged or one is replaced. Pictures, noise and wrong captions are
the same for every model, and no run trains on them. It says how well words are heard at a level of noise, in
a minute, not what is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vgen.app.loading import load_backbone
from vgen.diffusion.draws import Draws
from vgen.methods import VideoModel, assemble
from vgen.methods._objectives import Denoising
from vgen.methods.image.latent_diffusion import LatentDiffusion
from vgen.toybox.captions import caption
from vgen.toybox.contrast import distractors
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Mix, rng_of, scene_at

SEED, CHUNK = 990, 64  # of the pictures; and of the clips in one call
KINDS = ("colour", "shape", "size", "direction", "speed")


def stills(num: int, two: bool) -> Iterator[tuple[Tensor, str]]:
    """Frames 1 3 H W in [-1, 1] and their captions."""
    mix = Mix(core=1, many=0, texture=0, motion=0, relation=0, puppet=0, two_things=float(two))
    for i in range(num):
        scene, rng = scene_at(i, SEED + two, mix), rng_of(SEED, i)
        frame = np.ascontiguousarray(render(scene).video[rng.integers(scene.num_frames)])
        yield torch.from_numpy(frame).permute(2, 0, 1).float()[None] / 127.5 - 1, caption(scene, rng).text


@torch.no_grad()
def losses(
    video_model: VideoModel,
    objective: Denoising,
    latents: Tensor,
    captions: dict[int, str],
    level: int,
) -> Tensor:
    """Of the stills that ``captions`` has, in its order; a still gets the same noise whatever its caption."""
    out = []
    for rows in (list(captions)[at : at + CHUNK] for at in range(0, len(captions), CHUNK)):
        noise = Draws(SEED, [(str(row), level) for row in rows]).normal("noise", latents[rows])
        words = video_model.encode({"caption": [captions[row] for row in rows]})
        t = torch.full((len(rows),), level)
        out.append(objective.errors(video_model, words, latents[rows], t, noise))
    return torch.cat(out)


def said(values: Tensor) -> str:
    return f"{float(values.mean()):+.4f} ({float(values.std() / len(values) ** 0.5):.4f})"


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    num, two = int(options.get("n", 256)), options.get("things", "2") == "2"
    levels = [int(level) for level in options.get("levels", "500,650,750,850,930").split(",")]
    frames, captions = zip(*stills(num, two), strict=True)
    wrong = [distractors(text, (str(i), 0), len(KINDS) + 3) for i, text in enumerate(captions)]
    for name in options.get("backbones", "toybox").split(","):
        model = load_backbone(name).freeze()
        video_model, objective = assemble(LatentDiffusion(), model), Denoising()
        video_model.unet.eval()
        latents = model.encode(torch.stack(frames).to(model.vae.device)).float()
        for level in levels:
            right = losses(video_model, objective, latents, dict(enumerate(captions)), level)
            line = [f"{name}  {1 + two} things  t {level}  loss {float(right.mean()):.4f}"]
            for kind in KINDS:
                texts = {i: found[kind] for i, found in enumerate(wrong) if kind in found}
                line.append(
                    f"{kind} {said(losses(video_model, objective, latents, texts, level) - right[list(texts)])}"  # noqa: E501
                )
            print("  ".join(line), flush=True)


if __name__ == "__main__":
    main()
