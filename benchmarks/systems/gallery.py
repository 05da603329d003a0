"""Pictures of all systems: one moving WebP each, and ``docs/gallery/index.html`` that shows them together."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageSequence

from vgen.app.figures import said
from vgen.app.methods import rows

PANEL_PX = 128
TITLE_PX = 58
GAP_PX = 4
FRAME_MS = 125
Panel = tuple[str, np.ndarray]


def write_picture(path: Path, panels: Sequence[Panel]) -> None:
    """Clips side by side, each below its title, as a WebP that repeats without an end. Shorter clips stop at
    their last frames; enlarging takes whole pixels."""
    length = max(len(video) for _, video in panels)
    frames = [_frame(panels, i) for i in range(length)]
    first, *others = frames
    told: dict[str, Any] = {"duration": FRAME_MS, "loop": 0, "quality": 90, "method": 6}
    first.save(path, save_all=True, append_images=others, **told)


def _frame(panels: Sequence[Panel], i: int) -> Image.Image:
    width = len(panels) * (PANEL_PX + GAP_PX) - GAP_PX
    out = Image.new("RGB", (width, TITLE_PX + PANEL_PX), "white")
    pen = ImageDraw.Draw(out)
    font = ImageFont.load_default(size=10)
    for n, (title, video) in enumerate(panels):
        left = n * (PANEL_PX + GAP_PX)
        words = textwrap.wrap(title, 24, max_lines=4, placeholder=" …")
        pen.multiline_text((left + 1, 2), "\n".join(words), "black", font, spacing=2)
        still = Image.fromarray(video[min(i, len(video) - 1)])
        out.paste(still.resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST), (left, TITLE_PX))
    return out


SIX = ("animatediff", "follow_your_pose", "control_net", "tune_a_video", "fatezero", "dreambooth")
SIX_COLUMNS = 2
NAME_PX = 18


def write_six(folder: Path) -> Path | None:
    """``six.webp``: pictures of six systems in the folder, side by side below their names. None where one of
    them is not there."""
    paths = [folder / f"{name}.webp" for name in SIX]
    if not all(path.is_file() for path in paths):
        return None
    clips = [_frames(path) for path in paths]
    cell = (max(clip[0].width for clip in clips), max(clip[0].height for clip in clips) + NAME_PX)
    first, *others = [_six(clips, i, cell) for i in range(max(len(clip) for clip in clips))]
    told: dict[str, Any] = {"duration": FRAME_MS, "loop": 0, "quality": 85, "method": 6}
    first.save(folder / "six.webp", save_all=True, append_images=others, **told)
    return folder / "six.webp"


def _frames(path: Path) -> list[Image.Image]:
    with Image.open(path) as image:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def _six(clips: Sequence[Sequence[Image.Image]], i: int, cell: tuple[int, int]) -> Image.Image:
    """Frame ``i`` of all; ``cell`` is the width and height of each one's place."""
    lines = -(-len(clips) // SIX_COLUMNS)
    out = Image.new("RGB", (cell[0] * SIX_COLUMNS + GAP_PX, cell[1] * lines), "white")
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(size=13)
    for n, clip in enumerate(clips):
        left, top = n % SIX_COLUMNS * (cell[0] + GAP_PX), n // SIX_COLUMNS * cell[1]
        pen.text((left + 1, top), SIX[n], "black", font)
        out.paste(clip[min(i, len(clip) - 1)], (left, top + NAME_PX))
    return out


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vgen: its systems on the miniature world</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; }}
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1400px; padding: 1rem; }}
main {{ display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }}
article {{ border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-wrap: anywhere; }}
article img {{ background: white; display: block; height: auto; max-width: 100%; }}
h2 {{ font-size: 1.05rem; margin: 0 0 .3rem; }} p, ul {{ margin: .4rem 0; }} ul {{ padding-left: 1.1rem; }}
code {{ font-size: .85rem; }}
main {{ grid-auto-flow: dense; }}
@media (min-width: 44rem) {{ main {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
.wide {{ grid-column: span 2; }} }}
@media (min-width: 70rem) {{ main {{ grid-template-columns: repeat(3, minmax(0, 1fr)); }} }}
</style></head><body>
<h1>Systems on the miniature world</h1>
<p>Each picture is the first task of its system's suite with seed 0, not picked. Figures are means with 95 %
intervals, made by <code>python -m benchmarks.systems</code>; <a href="../methods.md">methods.md</a> has the
commands, the rows, and what was run beside them.</p>
<main>
{cards}
</main></body></html>
"""
NARROW = 3
"""Panels that a card of one column shows as large as they are."""


def write_gallery(folder: Path, known: dict[str, Any]) -> None:
    """``index.html`` over the pictures that lie in the folder, and ``six.webp``."""
    sentences = {name: sentence for name, sentence, *_ in rows()}
    cards = [_card(name, sentences[name], row) for name, row in sorted(known.items())]
    (folder / "index.html").write_text(PAGE.format(cards="\n".join(cards)), encoding="utf-8")
    write_six(folder)


def _card(name: str, sentence: str, row: dict[str, Any]) -> str:
    points = "".join(f"<li>{html.escape(said(figure))}</li>" for figure in row["figures"])
    alt = html.escape(f"{name}, moving pictures: {'; '.join(row['titles'])}", quote=True)
    num = len(row["titles"])
    sides = f'width="{num * (PANEL_PX + GAP_PX) - GAP_PX}" height="{TITLE_PX + PANEL_PX}"'
    image = f'<img src="{name}.webp" alt="{alt}" {sides} loading="lazy">'
    kind = ' class="wide"' if num > NARROW else ""
    words = f"<p>{html.escape(sentence)}.</p><ul>{points}</ul>"
    return f'<article{kind} id="{name}"><h2>{name}</h2>{image}{words}</article>'
