"""The console script: `vgen VERB key=value ...`. Help is read from a table; a verb's module is imported only
to run it."""

import functools
import importlib
import os
import re
import select
import sys
from collections.abc import Callable
from typing import ParamSpec

from vgen import __version__
from vgen.app.early import check
from vgen.app.refusals import in_letters, nearest, refusal
from vgen.app.spellings import respelt
from vgen.app.verbs import VERBS, overview

DONE, REFUSED, INTERRUPTED, UNREAD = 0, 2, 130, 141  # the last two as a shell counts SIGINT and SIGPIPE
SENTENCES = (
    *("prompt", "negative", "source", "target", "instruction"),
    *("data.prompt", "data.negative", "method.target", "method.negative", "method.suffix"),
)
"""Keys whose values people write as sentences; Hydra would take a comma in one for a sweep."""
WORD_LISTS = ("amplify", "blend", "cross_replace_steps")
"""Keys whose values are words, some with a number; people write them as JSON, as YAML or bare."""
HELP = ("--help", "-h", "help")


_P = ParamSpec("_P")


def _quiet_when_unread(act: Callable[_P, int]) -> Callable[_P, int]:
    """End without a word where nobody reads standard output any more, as behind ``| head``; other broken
    pipes are defects."""

    @functools.wraps(act)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            code = act(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            if not _unread():
                raise
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # else the interpreter complains when it flushes at its end
            return UNREAD
        return code

    return told


def _unread() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@_quiet_when_unread
def main() -> int:
    """Entry point of the console script; the returned number is the exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in HELP:
        print(overview(__version__))
        return DONE
    if arguments[0] == "--version":
        print(f"vgen {__version__}")
        return DONE
    return run(arguments[0], arguments[1:])


@_quiet_when_unread
def run(verb: str, arguments: list[str] | None = None) -> int:
    """Run one verb with the given arguments, by default those of this process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if verb not in VERBS:
        print(
            f"vgen: {verb} is not a verb{nearest(verb, VERBS) or ';'} the verbs are {', '.join(VERBS)}",
            file=sys.stderr,
        )
        return REFUSED
    if any(flag in arguments for flag in HELP[:2]):
        print(VERBS[verb].page(verb))
        return DONE
    sweep = "-m" in arguments or "--multirun" in arguments
    arguments, notes = respelt(verb, [at_home(a) for a in arguments])
    for note in notes:
        print(f"vgen {verb}: {note}", file=sys.stderr)
    if VERBS[verb].hydra and (sentence := check(verb, arguments)):
        print(f"vgen {verb}: {sentence}", file=sys.stderr)
        return REFUSED
    if not sweep:
        arguments = [as_words(as_sentence(a)) for a in arguments]
    if VERBS[verb].hydra:
        arguments = [a if sweep and "," in a else as_text(a) for a in arguments]
    sys.argv = [f"vgen {verb}", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # else Hydra prints its own reading of an error and exits before we see it
    )
    return _dispatch(verb)


_HOME = re.compile(r"""(?<=[=\[,"'])~/""")


def at_home(argument: str) -> str:
    """``data.path=~/videos`` with the home folder written out, in a list too: a shell does that only at the
    start of a word, and Hydra cannot read ``~``. A sentence stays."""
    key, given, _ = argument.partition("=")
    if not given or key in SENTENCES:
        return argument
    home = os.path.expanduser("~").rstrip("/") + "/"
    return _HOME.sub(lambda _: home, argument)


_QUOTED = re.compile(r"""(["'])(?:\\.|(?!\1).)*\1""", re.DOTALL)


def as_sentence(argument: str) -> str:
    """``prompt=a cat, asleep`` as Hydra reads it as one value; what is one quoted string already, or no
    sentence, stays."""
    key, given, value = argument.partition("=")
    if not given or key not in SENTENCES or not value or _QUOTED.fullmatch(value):
        return argument
    for _ in range(2):  # OmegaConf resolves a run twice: in place, and again as it becomes a typed value
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    """Hydra takes a backslash for itself where a quotation mark follows, and for what it is elsewhere."""
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), value)
    return f'"{escaped}"'


_WORD = re.compile(
    r"""\s*(?:"([^"]+)"|'([^']+)'|([^][{}$,:"'\s](?:[^][{}$,:"]*[^][{}$,:"\s])?))\s*(?::\s*([^,:"'\s]+)\s*)?(,|$)"""
)


def as_words(argument: str) -> str:
    """``amplify=["red jeep":1.5]``, ``{"red jeep": 1.5}`` or ``red jeep:1.5`` as the list of strings that
    Hydra's grammar can read; what is written otherwise stays, for Hydra to refuse."""
    key, given, value = argument.partition("=")
    if not given or key not in WORD_LISTS or value == "null":
        return argument
    inner = value[1:-1] if (value[:1], value[-1:]) in (("[", "]"), ("{", "}")) else value
    found, at = [], 0
    while at < len(inner) and (match := _WORD.match(inner, at)):
        word = match[1] or match[2] or match[3]
        found.append(f'"{word}:{match[4]}"' if match[4] else f'"{word}"')
        at = match.end()
    return f"{key}=[{','.join(found)}]" if found and at == len(inner) else argument


def as_text(argument: str) -> str:
    """``video=Müller (1).mp4``, whose letters Hydra's grammar has no place for, as one quoted text, and so
    ``run.name=2026_11_30``, of which it would make another number; a key of numbers reads both alike. What
    begins as a list, a dictionary or a quotation stays, for Hydra to refuse."""
    key, _, value = argument.partition("=")
    if not value or value[0] in "[{\"'" or key.startswith(("-", "hydra")) or _is_kept(argument, value):
        return argument
    return f"{key}={_quoted(value)}"


def _is_kept(argument: str, value: str) -> bool:
    """Whether Hydra reads the value, and a number as it is written."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    try:
        read = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return False
    if isinstance(read, ChoiceSweep):  # a comma in a path, or several values
        return not os.path.exists(value)
    return not isinstance(read, int | float) or isinstance(read, bool) or str(read) == value


def _dispatch(verb: str) -> int:
    try:
        module = importlib.import_module(f"vgen.app.{verb}")
        # Lightning starts the other ranks of a DDP run as `python -m SPEC.NAME key=value ...`;
        # without a spec it would look for a file named like our argv[0], 'vgen VERB'.
        sys.modules["__main__"].__spec__ = module.__spec__
        return module.main() or DONE
    except KeyboardInterrupt:
        print(f"vgen {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        sentence = refusal(error)
        if sentence is None or os.environ.get("VGEN_TRACEBACK") == "1":
            raise
        print(f"vgen {verb}: {in_letters(sentence)}", file=sys.stderr)
        return REFUSED
