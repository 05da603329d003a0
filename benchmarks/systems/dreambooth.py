"""DreamBooth on the toybox: a subject that the model has not, with and without class images, and in motion.

Four pictures of a magenta disc with a green rim and a white square are learnt as "sks circle" in 200 steps of
the whole UNet, twice. Counted are pictures that show magenta, which a circle of no named colour does not
have: with the identifier (the subject is learnt), and without (the class has taken on its looks). Then the
shipped motion module, which never met this UNet, draws the subject as it moves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.systems.plan import Figure, Panel, Workplace, compared
from vgen.app.loading import SHIPPED, open_checkpoint
from vgen.data.clip_files import to_uint8
from vgen.methods._sampling import Prompt, SamplingOverrides

GROUNDS = {"black": (0, 0, 0), "navy": (16, 24, 72), "gray": (96, 96, 96), "brown": (88, 56, 32)}
CENTRES = ((32, 32), (26, 36), (38, 28), (34, 38))
SUBJECT, CLASS = (f"a large {word}circle rests on a black background" for word in ("sks ", ""))
MOVES = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
LEAST_WAY = 4.0
"""Pixels of 64 that the subject goes the way that was asked for, and at least twice as far as aside."""
LEAST_PIXELS = 5
"""Of a picture of 64 px that shows magenta."""
NUM, BATCH = 48, 16


def measured(work: Workplace) -> list[Figure]:
    draw_subject(work.folder / "subject")
    steps = (f"data.num_steps={work.num(15)}", "data.guidance=5", "num_processes=1")
    told = ("data=class_images", f"data.prompt={CLASS}", f"data.num_images={work.num(24, 3)}")
    work.prepared("class", *told, *steps)
    learn(work, "dreambooth", "data.prior_path=data/class")
    learn(work, "dreambooth_alone", "method.prior_weight=0")
    kept, alone = ([float(shows(v[0])) for v in drawn(work, name, CLASS)] for name in MODELS)
    ours, before = (
        [float(shows(v[0])) for v in drawn(work, name, SUBJECT)] for name in (MODELS[0], "toybox")
    )
    moved = [moves_as(video, way) for way in MOVES for video in in_motion(work, way)]
    return [
        compared("share of pictures with the subject, asked for", ours, "before training", before),
        compared(
            "share of class pictures that took on its looks, with class images",
            kept,
            "without class images",
            alone,
            less=True,
        ),
        compared("share of clips by the shipped motion module with the subject moving as asked", moved),
    ]


MODELS = ("dreambooth", "dreambooth_alone")


def draw_subject(folder: Path) -> None:
    """Four pictures of 64 px, each with the name of its ground beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:64, 0:64] + 0.5
    for (name, ground), (cx, cy) in zip(GROUNDS.items(), CENTRES, strict=True):
        picture = np.full((64, 64, 3), ground, np.uint8)
        radius = np.hypot(x - cx, y - cy)
        picture[radius < 15] = (0, 200, 0)
        picture[radius < 11] = (230, 0, 230)
        picture[(abs(x - cx) < 4) & (abs(y - cy) < 4)] = 255
        Image.fromarray(picture).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)


def learn(work: Workplace, name: str, *prior: str) -> None:
    prompt = 'data.prompt="a large sks circle rests on a {text} background"'
    told = ["data.images=subject", prompt, "data.batch_size=2"]
    steps = ["trainer.gradient_checkpointing=false", "optim.lr=1e-4"]
    work.trained(name, "dreambooth", 200, *told, *steps, *prior)


def drawn(work: Workplace, name: str, prompt: str, num_frames: int = 1, num: int = NUM) -> np.ndarray:
    """uint8 n f h w 3: clip i has seed i. Drawn once."""
    kept = work.folder / "evaluations" / f"{name}-{prompt.replace(' ', '_')}.npy"
    if kept.is_file():
        return np.load(kept, allow_pickle=False)
    backbone = name if name == "toybox" else str(work.folder / "runs" / name / "image_model")
    adapter = "none" if num_frames == 1 else SHIPPED
    opened = open_checkpoint(adapter, backbone, "cpu")
    how = SamplingOverrides(num_frames=num_frames, num_steps=work.num(15), guidance=5.0)
    seeds = range(work.num(num))
    clips = []
    for at in range(0, len(seeds), BATCH):
        prompts = [Prompt(prompt, seed=i) for i in seeds[at : at + BATCH]]
        clips += [to_uint8(clip) for clip in opened.sample(prompts, opened.sampling(how))]
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, np.stack(clips))
    return np.stack(clips)


def in_motion(work: Workplace, way: str) -> np.ndarray:
    """Twelve clips of eight frames."""
    prompt = f"a large sks circle moves {way} on a black background"
    return drawn(work, "dreambooth", prompt, num_frames=8, num=NUM // len(MOVES))


def magenta(picture: np.ndarray) -> np.ndarray:
    """bool h w."""
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return (red - green > 60) & (blue - green > 60)


def shows(picture: np.ndarray) -> bool:
    return int(magenta(picture).sum()) >= LEAST_PIXELS


def moves_as(video: np.ndarray, way: str) -> float:
    """1 where every frame shows the subject and it goes the way that was asked for."""
    if not all(shows(frame) for frame in video):
        return 0.0
    first, last = (np.argwhere(magenta(video[i])).mean(0)[::-1] for i in (0, -1))
    along = float((last - first) @ MOVES[way])
    aside = float(abs((last - first) @ MOVES[way][::-1]))
    return float(along >= LEAST_WAY and along >= 2 * aside)


def picture(work: Workplace) -> list[Panel]:
    """A still of the subject, the first that is drawn of it, and the first clip of it that the shipped motion
    module draws."""
    with Image.open(work.folder / "subject" / "black.png") as image:
        still = np.asarray(image.convert("RGB"))[None]
    again, moving = drawn(work, MODELS[0], SUBJECT)[0], in_motion(work, "right")[0]
    return [("one of four pictures", still), (SUBJECT, again), ("a large sks circle moves right", moving)]
