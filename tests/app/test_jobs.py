"""The table at the end of a multirun: best first, each job with what only it was told."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from vgen.app.jobs import Trained, note, of_folder, show


def trained(folder: Path, losses: list[str], setting: str, ended: bool = True) -> Trained:
    (folder / "metrics").mkdir(parents=True)
    rows = "".join(f"{step},{loss}\n" for step, loss in enumerate(losses))
    (folder / "metrics" / "metrics.csv").write_text(f"step,val/loss\n{rows}")
    return Trained(folder, "group", ("trainer.max_steps=3", setting), ended)


def shown(jobs: list[Trained], capsys) -> list[list[str]]:
    show(jobs, Console(width=200))
    return [line.split() for line in capsys.readouterr().out.splitlines()[2:]]


def test_best_first_with_what_differs(tmp_path: Path, capsys) -> None:
    jobs = [
        trained(tmp_path / "a", ["", ".5", ".4"], "optim.lr=1"),
        trained(tmp_path / "b", ["", ""], "optim.lr=2", ended=False),
        trained(tmp_path / "c", [".3", "", ".9"], "optim.lr=3"),
    ]
    assert shown(jobs, capsys) == [
        ["1", "0.3000", "1", "optim.lr=3", str(tmp_path / "c")],
        ["2", "0.4000", "3", "optim.lr=1", str(tmp_path / "a")],
        ["3", "-", "-", "optim.lr=2", str(tmp_path / "b"), "(failed)"],
    ]


def test_one_job_needs_no_table(tmp_path: Path, capsys) -> None:
    assert shown([trained(tmp_path / "a", [".5"], "optim.lr=1")], capsys) == []


def test_what_was_refused_before_it_had_a_folder_has_a_row(tmp_path: Path, capsys) -> None:
    """With what was tried, which the others then tell too."""
    for name, loss in (("lr-0", ".5"), ("lr-2", ".4")):
        trained(tmp_path / name, [loss], "")
        (tmp_path / name / "config.yaml").write_text("optim: {lr: 1}\ndata: {path: here}\n")
        (tmp_path / name / "adapter.safetensors").touch()
    for number, rate in enumerate((1, -1, 1)):
        note(tmp_path, f"lr-{number}", [f"optim.lr={rate}"])
    assert shown(of_folder(tmp_path), capsys) == [
        ["1", "0.4000", "1", "optim.lr=1", str(tmp_path / "lr-2")],
        ["2", "0.5000", "1", "optim.lr=1", str(tmp_path / "lr-0")],
        ["3", "-", "-", "optim.lr=-1", str(tmp_path / "lr-1"), "(failed)"],
    ]
