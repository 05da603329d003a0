"""Grids of evaluations: what is shown can be run, and everything ends on one leaderboard."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from vgen.app import sweep as verb
from vgen.app import sweep_pool
from vgen.app.evaluate import EvaluateRun, Source, _objective, evaluate, evaluate_points
from vgen.app.judging.clip_store import truth
from vgen.app.judging.results import pareto
from vgen.app.sweep import aggregate, known, read_sweep, told
from vgen.methods._sampling import SamplingOverrides
from vgen.metrics.suite import Grid, Suite, Task
from vgen.resources import conf_dir

SUITE = Suite(iid=2, pair=1, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def frozen(todo: list[Task]) -> np.ndarray:
    return np.repeat(perfect(todo)[:, :1], 4, 1)


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto([(1, 0.2), (2, 0.5), (2, 0.4), (3, 0.5), (4, 0.9), (None, 1.0), (5, None)]) == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert pareto([(1, 0.5), (1, 0.5)]) == [True, True], "equals do not beat each other"


def test_one_leaderboard_from_summaries(tmp_path: Path) -> None:
    """Two checkpoints and two numbers of steps; the report shows all four, each with the way to its own."""
    for steps, good, bad in ((5, frozen, frozen), (10, perfect, frozen)):
        run = EvaluateRun(
            suite=SUITE,
            out=str(tmp_path / f"steps{steps}"),
            selftest=0,
            sampling=SamplingOverrides(num_steps=steps, guidance=1.0),
        )
        evaluate(
            run,
            Console(quiet=True),
            {
                "good": Source({"adapter": "g"}, lambda s=good: s),
                "bad": Source({"adapter": "b"}, lambda s=bad: s),
            },
        )
    [board] = aggregate(tmp_path, Console(quiet=True))["leaderboards"]
    assert next((r["label"], r["unet_calls"], r["on_front"]) for r in board["rows"]) == (
        "good, 10 steps",
        10,
        True,
    )
    assert [r["on_front"] for r in board["rows"]] == [
        True,
        r5 := board["rows"][1]["exact"]["mean"] < 1,
        r5,
        False,
    ]
    assert json.loads((tmp_path / "leaderboard.json").read_text())["leaderboards"] == [board]
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count('href="../steps10/report/index.html"') == 2
    data = json.loads(
        (tmp_path / "report" / "data.js").read_text().removeprefix("window.REPORT = ").removesuffix(";\n")
    )
    assert data["entries"][0] == "good, 10 steps"
    assert len(data["entries"]) == 4
    assert {take["src"] for clip in data["clips"] for take in clip["takes"]} <= {
        p.name for p in (tmp_path / "report" / "clips").iterdir()
    }


GRIDDED = replace(SUITE, grid=Grid(guidance=[1.0, 3.0], num_steps=[4, 8]))


def gridded(**settings) -> EvaluateRun:
    return EvaluateRun(adapter=["good", "bad"], suite=GRIDDED, suite_name="mine", selftest=0, **settings)


def test_a_suites_grid_draws_every_point_with_every_checkpoint(tmp_path: Path) -> None:
    drawn: list[str] = []

    def noted(sampler, todo: list[Task]) -> np.ndarray:
        drawn.extend(task.id for task in todo)
        return sampler(todo)

    sources = {
        name: Source({"adapter": name}, lambda s=s: partial(noted, s))
        for name, s in (("good", perfect), ("bad", frozen))
    }
    out = tmp_path / "grid"
    done = evaluate_points(gridded(out=str(out)), Console(quiet=True), sources)
    assert len(drawn) == 4 * 2 * 3, "points, checkpoints, clips"
    assert {(one.summary["sampler"]["guidance"], one.summary["sampler"]["num_steps"]) for one in done} == {
        (1, 4),
        (1, 8),
        (3, 4),
        (3, 8),
    }
    assert sorted(p.parent for p in out.glob("*/summary.json")) == sorted(one.folder for one in done)
    [board] = aggregate(out, Console(quiet=True))["leaderboards"]
    assert len(board["rows"]) == 8
    assert next(r["label"] for r in board["rows"]) == "good, guidance 1, 4 steps", (
        "as good as the others, and the cheapest"
    )
    evaluate_points(gridded(out=str(out)), Console(quiet=True), sources)
    assert len(drawn) == 4 * 2 * 3, "nothing is drawn twice"


def test_ranks_share_every_point_of_a_grid(tmp_path: Path) -> None:
    sources = {
        "good": Source({"adapter": "g"}, lambda: perfect),
        "bad": Source({"adapter": "b"}, lambda: frozen),
    }
    assert (
        evaluate_points(gridded(out=str(tmp_path), share="1/2", batch_size=1), Console(quiet=True), sources)
        == []
    )
    assert len(list(tmp_path.glob("*/samples/*/*.npy"))) == 4 * 2 * 1, "one clip of three"
    assert (
        len(
            evaluate_points(
                gridded(out=str(tmp_path), share="0/2", batch_size=1), Console(quiet=True), sources
            )
        )
        == 4
    )
    assert len(list(tmp_path.glob("*/samples/*/*.npy"))) == 4 * 2 * 3


@pytest.mark.slow
def test_the_command_ends_on_one_leaderboard(tmp_path: Path) -> None:
    words = [
        "adapter=untrained",
        "suite=smoke",
        "n=1",
        "suite.num_frames=2",
        "sampling.num_steps=1",
        "selftest=0",
        "page.max_clips=0",
    ]
    command = [
        Path(sys.executable).with_name("vgen"),
        "evaluate",
        *words,
        "suite.grid.guidance=[1,2]",
        "out=grid",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2/2 of the grid of suite smoke: guidance 2, steps 1" in done.stdout
    assert "leaderboard of 2 from 2 evaluations: grid/report/index.html" in done.stdout
    [board] = json.loads((tmp_path / "grid" / "leaderboard.json").read_text())["leaderboards"]
    assert {row["unet_calls"] for row in board["rows"]} == {1, 2}


def test_a_grid_and_a_sweep_share_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of a grid lie where the evaluations of a multirun lie, under the same names."""
    points = gridded(sweep="s").points()
    alone = EvaluateRun(
        adapter=["good", "bad"],
        suite=SUITE,
        suite_name="mine",
        sampling=SamplingOverrides(guidance=3.0, num_steps=8),
        sweep="s",
    )
    assert alone.folder() in {point.folder() for point in points}
    assert {point.folder().parent for point in points} == {Path("outputs/sweeps/s")}
    assert {point.logger.group for point in points} == {"s"}
    assert {point.logger.group for point in gridded(out="x/mine").points()} == {"mine"}
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    with pytest.raises(ValueError, match="a trial of a W&B sweep is one run, and suite mine has a grid of 4"):
        gridded(sweep="s").points()


def test_a_grid_is_about_what_is_drawn() -> None:
    theirs = EvaluateRun(videos="theirs", suite=GRIDDED, out="x")
    assert theirs.points() == [theirs]
    with pytest.raises(
        ValueError, match="has a grid of 4 settings of the sampler, and videos=theirs have no sampler"
    ):
        EvaluateRun(adapter="shipped", videos="theirs", suite=GRIDDED, out="x").points()


def test_what_must_not_be_compared_gets_leaderboards_of_its_own(tmp_path: Path) -> None:
    for name, suite in (
        ("a", SUITE),
        (
            "b",
            Suite(
                iid=2, pair=1, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4, seed=1
            ),
        ),
    ):
        run = EvaluateRun(suite=suite, out=str(tmp_path / name), selftest=0)
        evaluate(run, Console(quiet=True), {"x": Source({"adapter": "x"}, lambda: perfect)})
    assert len(aggregate(tmp_path, Console(quiet=True))["leaderboards"]) == 2
    assert sorted(p.name for p in tmp_path.glob("report*")) == ["report-custom-0", "report-custom-1"]


def test_a_folder_without_evaluations_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no finished evaluation \(no \*/summary.json\)"):
        aggregate(tmp_path, Console(quiet=True))


@pytest.mark.parametrize("name", sorted({*known()} - {"lr"}))
def test_shipped_sweeps_are_in_wandbs_format(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B's own code makes each trial's command; vgen evaluate accepts its words (composed, nothing run)."""
    sweep = read_sweep(name)
    trial = {
        k: {"value": v.get("value", v.get("values", [v.get("min")])[-1])}
        for k, v in sweep.plain["parameters"].items()
    }
    command = create_sweep_command(sweep.plain["command"])
    at = command.index("${args_no_hyphens}")
    words = [
        *command[:at],
        *create_sweep_command_args({"args": trial})["args_no_hyphens"],
        *command[at + 1 :],
    ]
    assert words[words.index("vgen") + 1] == "evaluate"
    composed = compose(words[words.index("evaluate") + 1 :], monkeypatch, capsys)
    assert composed["adapter"] == trial["adapter"]["value"]
    assert composed["sweep"] == name
    assert composed["logger"]["wandb"] == "ONLINE"
    assert told(sweep, [])


def test_a_search_of_training_is_in_wandbs_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgen.app.train import main

    sweep = read_sweep("lr")
    more = ["data.path=data/mine"]
    assert (sweep.verb, sweep.num_trials, sweep.folder(more)) == ("train", 3, Path("runs/lr"))
    swept = ["-m", "optim.lr=0.0001,0.0003,0.001", "run.dir=runs/lr", "data.path=data/mine"]
    assert sweep.multirun(more) == swept
    assert f"vgen train {' '.join(swept)}" in told(sweep, more)
    assert "3 trainings" in told(sweep, more)
    monkeypatch.setattr(sys, "argv", ["vgen train", "optim.lr=0.001", *sweep.fixed, *more, "--cfg", "job"])
    main()
    composed = yaml.safe_load(capsys.readouterr().out)
    assert (composed["optim"]["lr"], composed["run"]["dir"]) == (0.001, "runs/lr")
    assert composed["logger"]["wandb"] == "ONLINE"


def test_a_trial_of_training_has_a_name_and_a_group_of_its_own() -> None:
    """Under which it goes on when its task of an array is started again."""
    sweep = read_sweep("lr")
    words = sweep.trial(1, ["data.path=data/mine"])
    assert words[0] == "optim.lr=0.0003"
    assert words[-3:] == ["run.resume=auto", "logger.group=lr", "run.name=lr-1"]
    assert sweep.trial(2, ["run.name=mine", "logger.group=a"])[-2:] == ["run.resume=auto", "run.name=mine-2"]
    assert not any(word.startswith("run.name") for word in read_sweep("guidance").trial(0, []))


def test_trials_run_several_at_a_time_each_on_a_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\nsleep 0.2\necho "$3 on $CUDA_VISIBLE_DEVICES"\ntest "$3" != bad || exit 2\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    gpus = sweep_pool.visible_gpus()
    assert gpus == ["4", "GPU-7"]
    sweep_pool.run([["a"], ["bad"], ["c"]], 2, gpus, tmp_path / "trials")
    said = [(tmp_path / "trials" / f"{i}.log").read_text().split() for i in range(3)]
    assert [words[0] for words in said] == ["a", "bad", "c"]
    assert {said[0][2], said[1][2]} == {"4", "GPU-7"}
    told = capsys.readouterr().out
    assert "trial 1 of 3: failed (2): bad on " in told
    assert told.count("done in") == 2
    with pytest.raises(ValueError, match=r"all 1 trials failed, as .*0\.log says"):
        sweep_pool.run([["bad"]], 1, gpus, tmp_path / "trials")


def test_trainings_of_a_sweep_end_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate, loss in (("a", 1e-4, 0.5), ("b", 1e-3, 0.25)):
        (tmp_path / name / "metrics").mkdir(parents=True)
        settings = {"optim": {"lr": rate, "kind": "adamw"}, "run": {"name": name, "dir": str(tmp_path)}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(settings))
        (tmp_path / name / "metrics" / "metrics.csv").write_text(f"step,val/loss\n4,{loss}\n")
        (tmp_path / name / "adapter.safetensors").touch()
    found = aggregate(tmp_path, Console(width=200))
    assert found == {"runs": [str(tmp_path / "b"), str(tmp_path / "a")]}
    first = capsys.readouterr().out.splitlines()[2].split()
    assert first == ["1", "0.2500", "5", "optim.lr=0.001", str(tmp_path / "b")]


def compose(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict:
    from vgen.app.evaluate import main

    monkeypatch.setattr(sys, "argv", ["vgen evaluate", *words, "--cfg", "job"])
    main()
    return yaml.safe_load(capsys.readouterr().out)


def test_the_grid_for_hydra_is_that_of_the_file() -> None:
    assert read_sweep("guidance").num_trials == 6
    assert read_sweep("guidance").multirun(["n=1"]) == [
        "-m",
        "adapter=untrained,shipped",
        "sampling.guidance=1,3,7.5",
        "suite=demo",
        "sweep=guidance",
        "n=1",
    ]
    assert (
        "vgen evaluate -m adapter=untrained,shipped sampling.guidance=1,3,7.5 suite=demo sweep=guidance"
        in told(read_sweep("guidance"), [])
    )


def test_values_are_written_as_hydra_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    values = {
        "adapter": {"values": [["a", "b"], "runs/x=1"]},
        "backbone": {"values": [None]},
        "logger.tags": {"value": ["q r"]},
    }
    path.write_text(
        yaml.safe_dump(
            {"command": ["${env}", "vgen", "evaluate", "${args_no_hyphens}", "sweep=s"], "parameters": values}
        )
    )
    assert read_sweep(str(path)).multirun([])[1:4] == [
        "adapter=[a,b],'runs/x=1'",
        "backbone=null",
        "logger.tags=['q r']",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "usage: vgen sweep NAME"),
        (["guidance", "launch=moon"], "usage: vgen sweep NAME"),
        (["guidance", "launch=local", "jobs=0"], "jobs=0 must be a number of at least 1"),
        (["guidence"], "guidence is no sweep; there are guidance, lr, search, steps"),
        (["search", "launch=local"], "is method=bayes, whose trials W&B chooses"),
        (["guidance", "launch=wandb"], "there is no key for it: run 'wandb login'; or give launch=local"),
        (["aggregate=nowhere"], "holds no finished evaluation"),
    ],
)
def test_mistakes_speak(words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(sys, "argv", ["vgen sweep", *words])
    with pytest.raises(ValueError, match=sentence):
        verb.main()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WANDB_MODE": "offline"}, "WANDB_MODE=offline forbids asking it: unset WANDB_MODE"),
        (
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "it can't be reached from here",
        ),
    ],
)
def test_launching_without_a_server_names_what_is_lacking(
    environment: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["vgen sweep", "guidance", "launch=wandb"])
    with pytest.raises(ValueError, match=sentence):
        verb.main()


def test_a_sweeper_is_told_the_best_checkpoints_number(tmp_path: Path) -> None:
    asked = partial(EvaluateRun, suite=SUITE, adapter="x")
    sources = {
        "good": Source({"adapter": "g"}, lambda: perfect),
        "bad": Source({"adapter": "b"}, lambda: frozen),
    }
    done = [evaluate(asked(out=str(tmp_path), selftest=0), Console(quiet=True), sources)]
    assert (
        _objective(asked(), done) == done[0].summary["checkpoints"]["good"]["overall"]["exact"]["mean"] == 1
    )
    assert _objective(asked(objective="motion_moving"), done) == 1
    with pytest.raises(
        ValueError, match="objective=exactt is not a number of this suite; it has colour, shape"
    ):
        _objective(asked(objective="exactt"), done)
    with pytest.raises(
        ValueError, match="objective=rel has a value in none of the 3 clips; choose another, as exact"
    ):
        _objective(asked(objective="rel"), done)


class Sweeps:
    """As much of W&B's server as a sweep asks of it: it takes one, deals out its grid and says that it is
    through. ``knows_key`` false turns every client away."""

    def __init__(self, knows_key: bool) -> None:
        self.knows_key, self.config, self.trials, self.num_dealt = knows_key, "", [], 0

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = query.replace("(", " ").split()[1] if query.split() else ""
        project = {"id": "p", "name": "vgen", "entity": {"id": "e", "name": "me"}}
        match name:
            case "Viewer":
                return {
                    "viewer": {
                        "id": "u",
                        "entity": "me",
                        "username": "me",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            case "UpsertSweep":
                self.config, parameters = (
                    variables["config"],
                    yaml.safe_load(variables["config"])["parameters"],
                )
                values = [of.get("values", [of.get("value")]) for of in parameters.values()]
                self.trials = [
                    dict(zip(parameters, point, strict=True)) for point in itertools.product(*values)
                ]
                return {
                    "upsertSweep": {
                        "sweep": {"name": "abcd1234", "project": project},
                        "configValidationWarnings": [],
                    }
                }
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "agent"}}}
            case "Heartbeat":
                return {
                    "agentHeartbeat": {
                        "agent": {"id": "agent"},
                        "commands": json.dumps(self._deal(variables)),
                    }
                }
            case _:
                sweep = {
                    "id": "s",
                    "name": "abcd1234",
                    "method": "grid",
                    "state": "RUNNING",
                    "config": self.config,
                    "runs": {"edges": []},
                }
                return {"project": project | {"sweep": sweep}}

    def _deal(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        if any(json.loads(variables.get("runState") or "{}").values()):
            return []
        if not self.trials:
            return [{"type": "exit", "id": "end"}]
        self.num_dealt += 1
        words = {key: {"value": value} for key, value in self.trials.pop(0).items()}
        return [
            {
                "type": "run",
                "id": str(self.num_dealt),
                "run_id": f"run{self.num_dealt}",
                "args": words,
                "program": "evaluate.py",
            }
        ]


@contextmanager
def serve(sweeps: Sweeps) -> Iterator[str]:
    """The address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path != "/graphql":
                return self._send(200, {})
            if not sweeps.knows_key:
                return self._send(401, {"errors": [{"message": "user is not logged in"}]})
            asked = json.loads(body)
            return self._send(200, {"data": sweeps.answer(asked["query"], asked.get("variables") or {})})

        def _send(self, code: int, value: dict[str, Any]) -> None:
            payload = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_wandbs_agent_runs_the_grid_to_one_leaderboard(tmp_path: Path) -> None:
    """W&B's own client registers the sweep and its own agent runs each trial, from a shell whose PATH has no
    vgen; a key that the server does not know ends in a sentence."""
    words = ["n=1", "suite.num_frames=2", "sampling.num_steps=1", "selftest=0", "page.max_clips=0"]
    values = {
        "adapter": {"value": "untrained"},
        "sampling.guidance": {"values": [1, 2]},
        "suite": {"value": "smoke"},
    }
    trial = ["${env}", "vgen", "evaluate", "${args_no_hyphens}", "sweep=mini", "logger=offline"]
    (tmp_path / "mini.yaml").write_text(
        yaml.safe_dump({"method": "grid", "command": trial, "parameters": values})
    )

    def launched(sweeps: Sweeps) -> subprocess.CompletedProcess[str]:
        with serve(sweeps) as address:
            told = {
                "WANDB_API_KEY": "0" * 40,
                "WANDB_BASE_URL": address,
                "PATH": "/usr/bin:/bin",
                "OMP_NUM_THREADS": "1",
            }
            command = [Path(sys.executable).with_name("vgen"), "sweep", "mini.yaml", "launch=wandb", *words]
            kept = {
                name: value for name, value in os.environ.items() if name != "WANDB_MODE"
            }  # which tests have at "disabled"
            return subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**kept, **told}
            )

    refused = launched(Sweeps(knows_key=False))
    assert refused.returncode == 2
    assert "vgen sweep: W&B's server does not take the sweep (" in refused.stderr
    done = launched(Sweeps(knows_key=True))
    assert done.returncode == 0, done.stderr
    assert "other machines join with: wandb agent vgen/abcd1234" in done.stdout
    [board] = json.loads((tmp_path / "outputs/sweeps/mini/leaderboard.json").read_text())["leaderboards"]
    assert sorted(row["sampler"]["guidance"] for row in board["rows"]) == [1, 2]
    assert len(list((tmp_path / "outputs/sweeps/mini").glob("*/wandb/offline-run-*"))) == 2, (
        "one run for each trial"
    )


def test_a_file_with_another_command_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"command": ["python", "train.py"], "parameters": {}}))
    with pytest.raises(ValueError, match=r"must have command: \['\$\{env\}', vgen, evaluate"):
        read_sweep(str(path))
    assert (conf_dir() / "sweep" / "guidance.yaml").is_file()
