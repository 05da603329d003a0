"""DreamBooth on the miniature world: a subject that it has not, with and without class images.

``python benchmarks/toybox_subject.py out=FOLDER``: four pictures of a magenta disc with a green rim and a
white square are learnt as "sks circle" in 200 steps of the whole UNet, twice. Counted are pictures, of 16,
that show magenta, which a circle of no named colour does not have: with the identifier (the subject is
learnt), and without (the class has taken on its looks). A few minutes on a CPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

GROUNDS = {"black": (0, 0, 0), "navy": (16, 24, 72), "gray": (96, 96, 96), "brown": (88, 56, 32)}
CENTRES = ((32, 32), (26, 36), (38, 28), (34, 38))
SUBJECT, CLASS = (f"a large {word}circle rests on a black background" for word in ("sks ", ""))
FEW = [
    "sampling.num_frames=1",
    "sampling.num_steps=15",
    "sampling.guidance=5",
    "num_clips=16",
    "batch_size=16",
]
LEAST_PIXELS = 20
"""Of a picture of 128 px that shows magenta."""


def vgen(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "vgen", *words], cwd=folder, check=True, capture_output=True)


def draw_subject(folder: Path) -> None:
    """Four pictures of 64 px, each with the name of its ground beside it."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:64, 0:64] + 0.5
    for (name, ground), (cx, cy) in zip(GROUNDS.items(), CENTRES, strict=True):
        picture = np.full((64, 64, 3), ground, np.uint8)
        radius = np.hypot(x - cx, y - cy)
        picture[radius < 15] = (0, 200, 0)
        picture[radius < 11] = (230, 0, 230)
        picture[(abs(x - cx) < 4) & (abs(y - cy) < 4)] = 255
        Image.fromarray(picture).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)


def learn(folder: Path, name: str, *prior: str) -> None:
    prompt = 'data.prompt="a large sks circle rests on a {text} background"'
    steps = ["trainer=cpu", "trainer.gradient_checkpointing=false", "trainer.max_steps=200", "optim.lr=1e-4"]
    told = ["data.images=subject", prompt, "data.batch_size=2", f"run.name={name}"]
    vgen(folder, "train", "experiment=dreambooth", *told, *steps, *prior)


def shown(folder: Path, backbone: str, prompt: str, out: str) -> str:
    """How many of 16 pictures show magenta."""
    vgen(folder, "generate", "adapter=none", f"backbone={backbone}", f"prompt={prompt}", f"out={out}", *FEW)
    count = 0
    for path in sorted((folder / out).glob("*.png")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[:128, :128].astype(int)
        red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
        count += int(((red - green > 60) & (blue - green > 60)).sum() >= LEAST_PIXELS)
    return f"{count} of 16"


def main() -> None:
    folder = Path(dict(word.split("=", 1) for word in sys.argv[1:])["out"]).absolute()
    draw_subject(folder / "subject")
    drawn = ["data.num_images=24", "data.num_steps=15", "data.guidance=5", "num_processes=1", "out=class"]
    vgen(folder, "prepare", "data=class_images", f"data.prompt={CLASS}", *drawn)
    learn(folder, "with", "data.prior_path=class")
    learn(folder, "without", "method.prior_weight=0")
    for name in ("toybox", "with", "without"):
        backbone = name if name == "toybox" else f"runs/{name}/image_model"
        counts = [shown(folder, backbone, prompt, f"{name}-{i}") for i, prompt in enumerate((SUBJECT, CLASS))]
        print(f"{name}: with the identifier {counts[0]}, without it {counts[1]}", flush=True)


if __name__ == "__main__":
    main()
