"""What is shown on a terminal: names, prompts and cards from elsewhere are letters there, never commands to
it."""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.text import Text

from vgen.app.refusals import in_letters


class Terminal(Console):
    """Rich's console, for texts of any origin."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(in_letters(text), **settings)


class Shown(logging.Formatter):
    """A log line without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return in_letters(super().format(record))
