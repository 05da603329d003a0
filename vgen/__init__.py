"""vgen: motion for frozen image diffusion models. Importing the package itself costs nothing; import the room
you need, or call a verb from here: ``vgen.generate(prompt="a red circle drifts left")``."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgen.app.python import edit, evaluate, generate, load, prepare, train

__version__ = "0.1.0"
__all__ = ["__version__", "edit", "evaluate", "generate", "load", "prepare", "train"]


def __getattr__(name: str) -> Any:
    """The verbs, whose module is imported when one is asked for."""
    if name in __all__:
        return getattr(importlib.import_module("vgen.app.python"), name)
    raise AttributeError(f"module 'vgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
