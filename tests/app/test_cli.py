"""The console script: help is quick, refusals are one sentence, defects keep their traceback."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vgen import __version__
from vgen.app import cli
from vgen.app.verbs import VERBS

ROOT = Path(__file__).parents[2]
HYDRA = ("prepare", "train", "plan", "generate", "edit", "evaluate", "export", "loras")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Stands a verb's module in for the real `train`: its main() does what the test says."""
    monkeypatch.delenv("VGEN_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)

    def stand_in(code: str) -> None:
        module = ModuleType("vgen.app.train")
        exec(compile(code, "train.py", "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, "vgen.app.train", module)

    return stand_in


# A page is quick while nothing but Python's own modules and a few of ours is imported for it; a time would
# say how busy the machine is.
PAGES = """
import sys

before = set(sys.modules)
from vgen.app.cli import main

for arguments in (["--help"], *([verb, "--help"] for verb in sys.argv[1:])):
    sys.argv[1:] = arguments
    assert main() == 0
    imported = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
    assert imported == {"vgen"}, f"{arguments} imports {sorted(imported)}"
print(sum(name.startswith("vgen") for name in sys.modules), "of ours", file=sys.stderr)
"""


def test_help_is_quick_from_anywhere_because_it_imports_nothing_heavy(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PAGES, *VERBS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(f"usage: vgen {verb}" in done.stdout for verb in ("VERB", *VERBS))
    assert int(done.stderr.split()[0]) < 15, "help reads what tells of verbs, and no verb's own module"


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"], ["methods", "format=markdown"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    """As behind ``| head``: the pipe's other end is closed before a line is written."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "vgen", *arguments]
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (cli.UNREAD, "")


def test_a_pipe_that_breaks_elsewhere_is_a_defect(tmp_path: Path) -> None:
    code = """
from vgen.app import cli
def worker(verb):
    raise BrokenPipeError("a worker is gone")
cli._dispatch = worker
cli.run("train")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError: a worker is gone\n")


def test_overview_names_every_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vgen"])
    assert cli.main() == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in VERBS)
    assert all(len(line) <= 100 for line in page.splitlines())


@pytest.mark.parametrize("name", VERBS)
def test_every_page_is_short_and_has_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(name, ["--help"]) == 0
    page = capsys.readouterr().out
    assert 5 <= len(page.splitlines()) <= 24
    assert all(len(line) <= 110 for line in page.splitlines())
    assert all(example.startswith((f"vgen {name}", "make ", "torchrun ")) for example in VERBS[name].examples)
    assert len(VERBS[name].keys) <= 8
    assert (f"vgen {name} --cfg job" in page) == (name in HYDRA), "only Hydra's verbs know --cfg"


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vgen", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"vgen {__version__}\n"


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("trian", []) == 2
    assert capsys.readouterr().err.startswith("vgen: trian is not a verb; did you mean train?")


def test_a_verb_sees_its_own_arguments(verb) -> None:
    verb(
        "import os, sys\ndef main():\n    assert sys.argv == ['vgen train', 'run.seed=1', '-m'] and "
        "os.environ['HYDRA_FULL_ERROR'] == '1'"
    )
    assert cli.run("train", ["run.seed=1", "-m"]) == 0


def test_a_refused_value_is_one_sentence(verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb("def main():\n    raise ValueError('temporal kernel must be odd, got 4')")
    assert cli.run("train", []) == 2
    assert capsys.readouterr().err == "vgen train: temporal kernel must be odd, got 4\n"


def test_traceback_on_request(verb, monkeypatch: pytest.MonkeyPatch) -> None:
    verb("def main():\n    raise ValueError('temporal kernel must be odd, got 4')")
    monkeypatch.setenv("VGEN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="odd"):
        cli.run("train", [])


@pytest.mark.parametrize("code", ["raise RuntimeError('boom')", "import json; json.loads('{')"])
def test_a_defect_keeps_its_traceback(verb, code: str) -> None:
    """A ValueError out of a library (here json's) is no refusal: nobody could act on its text."""
    verb(f"def main():\n    {code}")
    with pytest.raises((RuntimeError, ValueError)):
        cli.run("train", [])


def test_interrupted(verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb("def main():\n    raise KeyboardInterrupt")
    assert cli.run("train", []) == 130
    assert capsys.readouterr().err == "vgen train: interrupted\n"


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_top_level_scripts_are_the_verbs(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith(f"vgen {script.removesuffix('.py')}: ")


@pytest.mark.slow
def test_the_top_level_scripts_train_and_evaluate(tmp_path: Path, toy_shards: Path) -> None:
    def ran(script: str, *arguments: str) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = [
        "data.window.num_frames=4",
        "data.batch_size=1",
        "data.val_clips=2",
        "callbacks=none",
        "trainer.accelerator=cpu",
    ]
    said = ran(
        "train.py", "debug=smoke", f"data.path={toy_shards}", *small, "trainer.max_steps=1", "run.name=a"
    )
    assert said.endswith("run: runs/a\n")
    drawn = ["n=1", "suite.num_frames=2", "sampling.num_steps=1", "selftest=0", "out=judged"]
    ran("evaluate.py", "adapter=runs/a", "suite=smoke", *drawn)
    assert (tmp_path / "judged" / "report" / "index.html").is_file()


REFUSED_AFTER_HYDRA = {
    "prepare": ["data.path=nowhere", "out=out"],
    "train": ["data.path=."],
    "generate": ["prompt=x", "adapter=nowhere"],
    "evaluate": ["adapter=nowhere"],
    "export": ["run=nowhere", "out=out"],
}


@pytest.mark.parametrize("name", REFUSED_AFTER_HYDRA)
def test_a_verb_leaves_existing_loggers_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    log = logging.getLogger(f"vgen.test.made_before_{name}")
    assert cli.run(name, REFUSED_AFTER_HYDRA[name]) == cli.REFUSED
    assert not log.disabled


@pytest.mark.parametrize("text", [
    "a cat, asleep", 'the word "stop" , red', "it's late: {now}, [then]", "50% = half", "plain words",
    "\"a 'b\" thing", "'it''s' late", '"one" and "two"', '"', "a \\ b", 'ends in \\', 'a \\" b',
    "a ${b} cat", "${oc.env:HOME}", "cut ${", r"a \${b} \\ cat", r'"a \\${b}',
])  # fmt: skip
def test_a_sentence_arrives_as_it_was_written(text: str) -> None:
    """Through Hydra's parser, and through OmegaConf as a run is made: resolved in place, then once more as it
    becomes plain or typed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    for key in cli.SENTENCES:
        config = OmegaConf.create(
            {"prompt": OverridesParser.create().parse_override(cli.as_sentence(f"{key}={text}")).value()}
        )
        OmegaConf.resolve(config)
        assert OmegaConf.to_container(config, resolve=True) == {"prompt": text}


def test_what_is_quoted_or_no_sentence_is_left_alone() -> None:
    for argument in (
        'prompt="a, b"',
        "prompt='a, b'",
        'prompt="a \\" b"',
        "optim.lr=1e-4,3e-4",
        "--cfg",
        "prompt=",
    ):
        assert cli.as_sentence(argument) == argument


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["jeep":1.5]', ["jeep:1.5"]),
        ('{"jeep":1.5}', ["jeep:1.5"]),
        ("{jeep: 1.5}", ["jeep:1.5"]),
        ('"jeep":1.5', ["jeep:1.5"]),
        ("jeep:1.5", ["jeep:1.5"]),
        ("[jeep:1.5]", ["jeep:1.5"]),
        ("['red jeep:1.5', car:2]", ["red jeep:1.5", "car:2"]),
        ('{"red jeep": 1.5, it\'s: 2}', ["red jeep:1.5", "it's:2"]),
        ("jeep:0.2-0.6,car:0.4", ["jeep:0.2-0.6", "car:0.4"]),
        ("jeep", ["jeep"]),
        ('["man","red jeep"]', ["man", "red jeep"]),
    ],
)
def test_words_with_numbers_may_be_written_as_people_write_them(text: str, words: list[str]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for key in cli.WORD_LISTS:
        assert OverridesParser.create().parse_override(cli.as_words(f"{key}={text}")).value() == words


def test_what_is_no_list_of_words_is_left_for_hydra_to_refuse() -> None:
    for argument in (
        "amplify=[jeep:1.5",
        "amplify=[a:1:2]",
        "amplify=",
        "amplify=null",
        "amplify=[]",
        "blend=[${x}]",
        'out=["a":1]',
        "-m",
    ):
        assert cli.as_words(argument) == argument


@pytest.mark.parametrize("text", [
    "/videos/Käse & Müller (1)/clip #2.mp4", "it's.mp4", "-first.mp4", "a;b", "a[1].mp4", "C:\\müll\\",
    "犬.mp4", "2026_11_30", "1e3", "1.50", "-0", "+7",
])  # fmt: skip
def test_a_path_or_name_arrives_as_it_was_written(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(cli.as_text(f"out={text}")).value() == text


def test_a_path_that_is_there_keeps_its_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Tokio, 2020").mkdir()
    assert cli.as_text("data.path=Tokio, 2020") == 'data.path="Tokio, 2020"'
    assert cli.as_text("data.path=Kyoto, 2020") == "data.path=Kyoto, 2020"


def test_what_hydra_reads_as_it_is_written_is_left_alone() -> None:
    for argument in (
        *("optim.lr=0.5", "seed=3", "data.cache=true", "adapter=a,b", "out=null", "x=interval(1,12)"),
        *('out="ä"', "out=[a", "videos=[ä]", "x={a:1}", "out=", "--cfg", "~method", "hydra.x=1e3"),
        "--config-dir=/müll",
    ):
        assert cli.as_text(argument) == argument


@pytest.mark.parametrize(("text", "number"), [("1_000", 1000), ("3e2", None), ("1e-3", 0.001), (".50", 0.5)])
def test_a_number_that_is_written_otherwise_is_one_still(text: str, number: float | None) -> None:
    """As a key of whole numbers and one of others read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import FloatNode, IntegerNode, ValidationError

    read = OverridesParser.create().parse_override(cli.as_text(f"x={text}")).value()
    if number is None:
        with pytest.raises(ValidationError):
            IntegerNode(read)
    else:
        assert (IntegerNode if isinstance(number, int) else FloatNode)(read)._value() == number


def test_one_value_of_a_sweep_keeps_its_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under --multirun a comma divides runs."""
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "_dispatch", lambda verb: seen.append(sys.argv[1:]) or cli.DONE)
    for sweep in ([], ["-m"]):
        cli.run("edit", [*sweep, "amplify=jeep:1,jeep:2"])
    assert seen == [['amplify=["jeep:1","jeep:2"]'], ["-m", "amplify=jeep:1,jeep:2"]]


def test_the_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``data.path=`` no shell does it, and Hydra cannot read it."""
    monkeypatch.setenv("HOME", "/home/someone")
    for given, wanted in (
        ("data.path=~/videos", "data.path=/home/someone/videos"),
        ("out='~/a b'", "out='/home/someone/a b'"),
        ("adapter=[untrained,~/a,~/b]", "adapter=[untrained,/home/someone/a,/home/someone/b]"),
    ):
        assert cli.at_home(given) == wanted
    for other in ("prompt=~/ is a path", "~data", "out=a~/b", "-m", "~/here"):
        assert cli.at_home(other) == other


def test_every_verb_sees_the_home_folder(verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    verb("import sys\ndef main():\n    assert sys.argv[1:] == ['run.dir=/home/someone/a', '-m']")
    assert cli.run("train", ["run.dir=~/a", "-m"]) == 0


REFUSED_BY_HAND = {
    "methods format=xml": "format=table, format=markdown, format=pages and takes nothing else, got "
    "format=xml",
    "methods foo": "takes nothing else, got foo",
    "doctor foo=1": "takes no arguments, got foo=1",
    "sites toybox foo": "(toybox, sd15, sd21, sdxl, sd15_narrow, sdxl_narrow or a folder), got toybox foo",
    "show foo": "give one method: vgen show METHOD [backbone=sd15|toybox|FOLDER] [KNOB=VALUE ...]; methods "
    "are align_your_latents",
    "show method=foo": "give one method",
    "show animatediff method=fatezero": "give one method",
    "show animatediff motion.head=4": "motion.head is not a key; did you mean motion.heads?",
}


@pytest.mark.parametrize(("command", "sentence"), REFUSED_BY_HAND.items())
def test_a_verb_without_hydra_refuses_what_it_does_not_have(
    verb, capsys: pytest.CaptureFixture[str], command: str, sentence: str
) -> None:
    name, *arguments = command.split()
    assert cli.run(name, arguments) == cli.REFUSED
    said = capsys.readouterr().err
    assert said.startswith(f"vgen {name}: ")
    assert sentence in said


def test_a_method_is_shown_by_its_name_alone_or_as_training_takes_it(
    verb, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for words in (["animatediff", "motion.heads=4"], ["method=animatediff", "method.motion.heads=4"]):
        assert cli.run("show", [*words, "backbone=toybox"]) == cli.DONE
        shown.append(capsys.readouterr().out)
    assert "heads: 4" in shown[0]
    assert shown[0] == shown[1]
