"""Where the files that ship with vgen are: in the checkout, or inside an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The run configurations: conf/ of the checkout, or vgen/_conf of an installation."""
    return _shipped("conf")


def data_dir() -> Path:
    """What ships as data (the toybox image model): data/ of the checkout, or vgen/_data of an
    installation."""
    return _shipped("data")


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"vgen's shipped folder '{name}' is neither in the installation ({_PACKAGE / f'_{name}'}) nor in a "
        "checkout "
        f"({_PACKAGE.parent / name}); install vgen again from a complete checkout"
    )
