"""Law: rooms import downwards only, foreign frameworks stay in their rooms, and importing vgen is cheap."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_import_direction_is_kept() -> None:
    """Runs import-linter's contracts of pyproject.toml; the report names the offending lines."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["vgen", "vgen.resources", "vgen.app.cli", "vgen.app.doctor"])
def test_cheap_modules_import_no_framework(module: str) -> None:
    heavy = ["torch", "numpy", "hydra", "omegaconf", "diffusers", "transformers", "pytorch_lightning"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
