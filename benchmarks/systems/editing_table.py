"""The table of all editing systems, in Markdown, from what their evaluations left.

    python -m benchmarks.systems.editing_table out=FOLDER

FOLDER is that of ``python -m benchmarks.systems``. The same table leads ``docs/methods.md``, from the figures
in the package.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vgen.app.figures import editing_table


def main(given: Sequence[str]) -> None:
    key, _, folder = " ".join(given).partition("=")
    files = sorted((Path(folder) / "figures").glob("*.json")) if key == "out" else []
    if not files:
        raise SystemExit(
            "give out=FOLDER in which 'python -m benchmarks.systems out=FOLDER' has measured something, got "
            f"{' '.join(given) or 'nothing'}"
        )
    known = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    print("\n".join(editing_table(known)))


if __name__ == "__main__":
    main(sys.argv[1:])
