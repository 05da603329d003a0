"""What ``vgen generate`` wrote into its clips: the same card in the mp4 and in the GIF beside it, with the
prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
from PIL import Image, UnidentifiedImageError


def card_of(path: Path) -> dict[str, Any] | None:
    """The card of an mp4 or a GIF; None where it has none or cannot be read."""
    try:
        comment = _comment(path)
        card = json.loads(comment) if comment else None
    except (OSError, ValueError, av.FFmpegError, UnidentifiedImageError):
        return None
    return card if isinstance(card, dict) else None


def _comment(path: Path) -> str | bytes | None:
    match path.suffix.lower():
        case ".mp4":
            with av.open(str(path)) as container:
                return container.metadata.get("comment")
        case ".gif":
            with Image.open(path) as image:
                return image.info.get("comment")
    return None


def one_clip_twice(paths: list[Path]) -> Path | None:
    """The mp4 among files of one name that are one clip by their cards; None where they are not."""
    cards = [card_of(path) for path in paths]
    alike = cards[0] is not None and all(card == cards[0] for card in cards)
    return next((p for p in paths if p.suffix.lower() == ".mp4"), None) if alike else None


def prompts_of(files: Mapping[str, Path]) -> list[tuple[str, str]] | None:
    """(file name, prompt) of every file by its card; None unless all have one."""
    found = {name: card_of(path) for name, path in files.items() if path.is_file()}
    prompts = {name: card["prompt"] for name, card in found.items() if card and card.get("prompt")}
    return list(prompts.items()) if len(prompts) == len(files) else None
