"""Whose keys and values self-attention reads, and nothing else: warp error of edits along the true motion.

    python benchmarks/frame_keys.py n=16 frames=8 steps=20 guidance=3 start=noised|inverted strength=0.7
    words=open|told|none   # JSON

Clips of the toybox's edit suite are denoised with the new prompt from the same latents under one list of
frames after another (``per_frame`` is plain self-attention); no map is edited. ``start=noised`` begins from
the clip under fresh noise of ``strength`` (q-sample), independent from frame to frame and the same for every
list: there frames owe their agreement to attention alone; ``start=inverted`` from the clip's inversion with
plain attention, which carries it already. ``words=told`` takes the suite's captions, which name the colour of
everything: then the words make frames agree, whoever reads whose keys. ``words=open`` leaves words of colour
out, so that structure comes from the clip and appearance is the model's choice, as where a photograph's
prompt stands beside a ControlNet (the published ablation); ``words=none`` all words. Errors are those of
``warp_error`` (vgen.metrics) with the renderer's own flow, hidden pixels left out, printed times 100 with 95
% bootstrap intervals over clips, and the paired differences to ``per_frame``. A frozen clip would win here:
``motion`` is how much neighbouring frames differ inside the moving things, as a share of the true clip's.
``ground`` is how far the median colours of neighbouring frames are apart, 0 to 441.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from vgen.app.judging.suite_edits import encoded
from vgen.app.loading import TOYBOX, load_backbone
from vgen.attention.keys import Frame, FrameKeys
from vgen.data.clip_files import to_uint8
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import noised
from vgen.diffusion.solvers import solve
from vgen.methods import assemble
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import start_noise
from vgen.methods._sampling import Sampling
from vgen.methods._wishes import Wish
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.measure import measure
from vgen.metrics.statistics import Interval, interval, paired_difference
from vgen.metrics.suite import Kind, Suite, tasks
from vgen.metrics.task import Task
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.scenes import Colour, Ground

LISTS = {
    "per_frame": [Frame.SELF],
    "first": [Frame.FIRST],
    "middle": [Frame.MIDDLE],
    "first+previous": [Frame.FIRST, Frame.PREVIOUS],
    "self+middle": [Frame.SELF, Frame.MIDDLE],
    "all": [Frame.ALL],
}


COLOURS = re.compile(rf"\b(?:{'|'.join(c.value for c in (*Colour, *Ground))}|checkered|striped)\b *")
WORDS: dict[str, Callable[[str], str]] = {
    "open": lambda text: COLOURS.sub("", text),
    "told": str,
    "none": lambda text: "",
}


def hidden_of(rendered: Rendered) -> np.ndarray:
    """bool f-1 h w: what is seen there is not seen where it moves to in the next frame."""
    covered = rendered.masks > 0.5
    label = np.where(covered.any(1), covered.argmax(1) + 1, 0)
    flow, (height, width) = rendered.flow(), label.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    moved = [
        map_coordinates(after, [rows + step[..., 1], columns + step[..., 0]], order=0, mode="nearest")
        for after, step in zip(label[1:], flow, strict=True)
    ]
    return np.stack(moved) != label[:-1]


class Bench:
    def __init__(self, options: dict[str, str]) -> None:
        self.options = options
        self.num_steps, self.guidance = int(options.get("steps", 20)), float(options.get("guidance", 3))
        self.words = WORDS[options.get("words", "open")]
        self.model = load_backbone(options.get("backbone", TOYBOX))
        self.recipe = PromptToPrompt()  # plain attention, nothing inserted
        self.video_model = assemble(self.recipe, self.model)
        self.video_model.unet.requires_grad_(False)

    def session(self, task: Task) -> EditSession:
        given = task.inputs(self.model.size_px)
        latents = encoded(self.model, given.source, torch.device("cpu"))
        noise = start_noise(
            self.model, latents.shape[1], tuple(latents.shape[-2:]), task.seed, latents.device
        )
        return EditSession(
            video_model=self.video_model,
            sampling=Sampling(num_steps=self.num_steps, guidance=self.guidance),
            noise=noise,
            latents=latents,
            wish=Wish(source=given.source_caption, target=self.words(task.caption)),
        )

    @torch.no_grad()
    def clips(self, task: Task) -> Iterator[tuple[str, np.ndarray]]:
        own = self.session(task)
        schedule, first = own.video_model.schedule, 0
        if self.options.get("start", "noised") == "inverted":
            start = own.invert(own.wish.source).start
        else:
            first, start = noised(
                own.latents, own.noise, schedule, self.num_steps, float(self.options.get("strength", 0.7))
            )
        given = own.encoded(own.wish.target)
        ask = own.denoiser(lambda _: given, Cfg(scale=self.guidance))
        for name, frames in LISTS.items():
            with own.control.acting(keys=[FrameKeys(frames=frames)]):
                latents = solve(ask, start, schedule, self.num_steps, first_step=first)
            yield name, to_uint8(self.model.decode(latents)[0])


def rounded(found: Interval) -> list[float | None]:
    return [None if x is None else round(x, 3) for x in (found.mean, found.low, found.high)]


def motion(video: np.ndarray, rendered: Rendered) -> float:
    """Difference of neighbouring frames where something is in either of them, as a share of the true
    clip's."""
    there = (rendered.masks > 0.5).any(1)
    either = there[1:] | there[:-1]
    found, true = (np.abs(np.diff(v.astype(float), axis=0))[either].mean() for v in (video, rendered.video))
    return float(found / max(true, 1e-9))


def ground(video: np.ndarray) -> float:
    """Distance in RGB between the medians of neighbouring frames' pixels."""
    medians = np.median(video.reshape(len(video), -1, 3).astype(float), 1)
    return float(np.linalg.norm(np.diff(medians, axis=0), axis=-1).mean())


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    num, frames = int(options.get("n", 16)), int(options.get("frames", 8))
    suite = Suite(
        kind=Kind.EDIT,
        iid=num,
        pair=0,
        triple=0,
        extrapolation=0,
        paraphrase=0,
        num_frames=frames,
        stride_ticks=2,
    )
    bench, todo = Bench(options), tasks(suite)
    truths = [render(task.scene, bench.model.size_px) for task in todo]
    videos: dict[str, list[np.ndarray]] = {name: [] for name in (*LISTS, "truth", "decoder")}
    for task, truth in zip(todo, truths, strict=True):
        for name, video in bench.clips(task):
            videos[name].append(video)
        videos["truth"].append(truth.video)
        with torch.no_grad():
            videos["decoder"].append(
                to_uint8(bench.model.decode(encoded(bench.model, truth.video, torch.device("cpu")))[0])
            )
    flow, hidden = [truth.flow() for truth in truths], [hidden_of(truth) for truth in truths]
    errors = {
        name: 100
        * np.array(
            measure(["warp_error"], Clips(videos=made, flow=flow, hidden=hidden))["warp_error"].per_clip
        )
        for name, made in videos.items()
    }
    print(
        json.dumps(
            {
                "options": options,
                "n": len(todo),
                "warp_error_x100": {name: rounded(interval(values)) for name, values in errors.items()},
                "motion": {
                    n: round(float(np.mean([motion(v, t) for v, t in zip(made, truths, strict=True)])), 2)
                    for n, made in videos.items()
                },
                "ground": {
                    name: rounded(interval([ground(video) for video in made]))
                    for name, made in videos.items()
                },
                "minus per_frame": {
                    name: rounded(paired_difference(errors[name], errors["per_frame"]))
                    for name in LISTS
                    if name != "per_frame"
                },
            }
        )
    )


if __name__ == "__main__":
    main()
