"""The decisions of scripts/setup.py that do not need an installation: what is current, which torch, what it
may say."""

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, pointed at an environment of the test's own; no variable of the user's reaches it."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name in ("VENV", "BIN", "STAMP", "LOG"):
        monkeypatch.setattr(script, name, tmp_path / getattr(script, name).relative_to(ROOT))
    for variable in ("VGEN_PYTHON", "VGEN_TORCH_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    return script


@pytest.fixture
def ready(setup: ModuleType) -> ModuleType:
    site = setup.VENV / "lib" / "python3.11" / "site-packages"
    (site / "einops-0.8.2.dist-info").mkdir(parents=True)
    setup.BIN.mkdir()
    for program in ("python", "vgen"):
        (setup.BIN / program).touch()
    setup.STAMP.write_text(
        json.dumps(
            {"fingerprint": setup.fingerprint(), "packages": ["einops"], "torch_index": setup.torch_index()}
        )
    )
    assert setup.is_ready()
    return setup


def test_ready_until_something_changes(ready: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (ready.BIN / "vgen").unlink()
    assert not ready.is_ready()
    (ready.BIN / "vgen").touch()
    monkeypatch.setenv("VGEN_TORCH_INDEX", "elsewhere")
    assert not ready.is_ready()
    monkeypatch.delenv("VGEN_TORCH_INDEX")
    next(ready.VENV.glob("lib/*/*/einops*")).rmdir()
    assert not ready.is_ready()


@pytest.mark.parametrize("stamp", ["", "{", "{}", '{"fingerprint": "of another lock"}'])
def test_an_old_or_torn_stamp_is_not_ready(ready: ModuleType, stamp: str) -> None:
    ready.STAMP.write_text(stamp)
    assert not ready.is_ready()


def test_no_python_fits(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VGEN_PYTHON", "/no/such/python")
    assert setup.main() == 1
    assert (
        "vgen needs Python 3.10, 3.11, 3.12 or 3.13 and /no/such/python is not one" in capsys.readouterr().err
    )


CUDA, CPU = ["nvidia-cublas==13.1; platform_system == 'Linux'", "sympy"], ["sympy"]


@pytest.mark.parametrize(
    ("gpu", "index", "offered", "has_cpu_build", "expected"),
    [
        (True, None, CUDA, True, []),  # a GPU machine never gets the CPU build by our choice
        (False, None, CPU, False, []),  # pip's own choice needs no CUDA
        (False, None, CUDA, True, "+cpu"),  # the CPU build is to be had
        (False, None, CUDA, False, []),  # it is not: said, not forbidden
        (True, "elsewhere", CUDA, True, ["--no-deps", "--force-reinstall", "--index-url", "elsewhere"]),
    ],
)
def test_which_torch(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, gpu, index, offered, has_cpu_build, expected
) -> None:
    def pip_says(command: list[str]) -> str | None:
        if "--report" in command:
            return "WARNING: noise\n" + json.dumps({"install": [{"metadata": {"requires_dist": offered}}]})
        return "" if has_cpu_build and command[-1].endswith("+cpu") else None

    monkeypatch.setattr(setup, "answers", pip_says)
    monkeypatch.setattr(setup, "has_nvidia_gpu", lambda: gpu)
    if index:
        monkeypatch.setenv("VGEN_TORCH_INDEX", index)
    torch = setup.pinned("torch")
    assert setup.torch_arguments() == (
        [torch + expected] if isinstance(expected, str) else [torch, *expected]
    )


def test_the_lock_names_versions_only() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pin = r"[a-z0-9_.-]+(==[0-9][0-9a-z.]*(; python_version (<|>=) '3\.11')?|(,?!=[0-9.]+)+)"
    wrong = [line for line in lines if not re.fullmatch(pin, line, re.IGNORECASE)]
    assert wrong == []


def test_the_lock_keeps_the_ranges() -> None:
    """Each dependency of pyproject.toml is locked, at a version its range admits."""
    from packaging.requirements import Requirement

    project = (ROOT / "pyproject.toml").read_text().split("\n[tool.")[0]
    wanted = [
        Requirement(line) for line in re.findall(r'^ {4}"([a-z][^"]*[<>=][^"]*)",', project, re.MULTILINE)
    ]
    locked = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    ]
    assert len(wanted) > 25
    for requirement in wanted:
        versions = [next(iter(lock.specifier)).version for lock in locked if lock.name == requirement.name]
        assert versions, requirement
        assert all(version in requirement.specifier for version in versions), requirement


NOT_IMPORTED = {"einops"}
"""Why it is there all the same: docs/decisions/0001-dependencies.md."""


def test_every_dependency_is_imported_or_excused() -> None:
    project = (
        (ROOT / "pyproject.toml")
        .read_text()
        .split("\n[tool.")[0]
        .split("\n[project.optional-dependencies]")[0]
    )
    wanted = {name.lower() for name in re.findall(r'^ {4}"([a-z][a-z0-9-]*)[<>=]', project, re.MULTILINE)}
    modules: dict[str, set[str]] = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            modules.setdefault(name.lower().replace("_", "-"), set()).add(module)
    sources = [
        path.read_text(encoding="utf-8") for room in ("vgen", "tests") for path in (ROOT / room).rglob("*.py")
    ]
    told = set(re.findall(r"(?:import |from |importorskip\(\")([A-Za-z0-9_]+)", "\n".join(sources)))
    assert {name for name in wanted if name in modules and not modules[name] & told} == NOT_IMPORTED
    decisions = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text(encoding="utf-8")
    assert {name for name in wanted if name not in decisions} == set()
