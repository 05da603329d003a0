"""Names of folders that settings give: one safe word each, since settings come from files of others, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from vgen.app.config import RunSettings
from vgen.app.folders import refuse_unsafe_name
from vgen.app.judging.evaluation import EvaluateRun
from vgen.app.sweep import Sweep

UNSAFE = {
    "..": "neither starts nor ends with a dot",
    "../../x": "holds no / or",
    "/absolute": "holds no / or",
    "a\\b": "holds no / or",
    "a/../b": "holds no / or",
    "\x1b[2Jcleared": "holds no control characters",
    "a\nb": "holds no control characters",
    "a\x00": "holds no control characters",
    "txt\u202efdp": "holds no control characters",
    "\udcff": "holds no control characters",
    ".lock": "neither starts nor ends with a dot",
    "blank ": "neither starts nor ends with a dot or a blank",
    "-rf": "neither starts nor ends .* nor starts with -",
    "~root": "neither starts nor ends .* nor starts with - or ~",
    "NUL": "is not a reserved word",
    "com1.txt": "is not a reserved word",
    "multirun": "is not a reserved word",
    "ü" * 101: "has at most 200 bytes",
}


@pytest.mark.parametrize(("name", "law"), UNSAFE.items(), ids=map(ascii, UNSAFE))
def test_an_unsafe_name_of_a_run_is_refused(name: str, law: str) -> None:
    with pytest.raises(ValueError, match=rf"run\.name names one folder and {law}"):
        RunSettings(name=name)


@pytest.mark.parametrize("name", ["", "mine", "lr=1e-3", "a.b_c-d", "käfer 2", "猫"])
def test_a_safe_name_is_taken(name: str) -> None:
    refuse_unsafe_name(name, "run.name")


def test_names_of_sweeps_and_suites_follow_the_same_rule() -> None:
    with pytest.raises(ValueError, match="sweep names one folder"):
        EvaluateRun(sweep="..")
    with pytest.raises(ValueError, match="suite_name names one folder"):
        EvaluateRun(suite_name="../x")
    foreign = Sweep(
        path=Path("a.yaml"), verb="evaluate", method="grid", parameters={}, fixed=["sweep=../../x"], plain={}
    )
    with pytest.raises(ValueError, match="sweep names one folder"):
        foreign.folder([])
