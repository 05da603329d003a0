"""What to say of words that a text encoder has no room for."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from vgen.backbones.image_model import ImageModel

_SHOWN = 40


def warn_of_cut(model: ImageModel, texts: Iterable[str], console: Console) -> None:
    """One line on the prompts of which words are left out; none where all are read whole."""
    cut = {text: num for text in dict.fromkeys(texts) if (num := model.left_out(text))}
    if not cut:
        return
    text, num = max(cut.items(), key=lambda item: item[1])
    more = f" (and words of {len(cut) - 1} more)" if len(cut) > 1 else ""
    console.print(
        f"[yellow]words are left out[/]: the text encoder reads {model.tokenizer.model_max_length - 2} "
        "tokens, of "
        f"'{escape(text[:_SHOWN])}...' the last {num} are cut off{more}; say it in fewer words",
        soft_wrap=True,
        highlight=False,
    )
