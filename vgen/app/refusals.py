"""From an exception to the one sentence that a user can act on, or to nothing when it is a defect of
vgen's."""

import difflib
import re
from collections.abc import Iterable, Iterator
from types import TracebackType

from vgen.data.files import is_disks_fault

MOST_LISTED = 30
_EXTRAS = {"hydra/sweeper=optuna": "pip install 'vgen[optuna]'"}
"""Options that a package of their own brings."""


def refusal(error: BaseException) -> str | None:
    """The sentence for a value that vgen or Hydra refuses; None for anything else, which deserves its
    traceback."""
    if _package(error) in ("hydra", "omegaconf"):
        return _config_refusal(error)
    if _package(error) == "yaml":
        return _no_yaml(error)
    if isinstance(error, ValueError) and _raised_in_vgen(error.__traceback__):
        return str(error)
    if is_disks_fault(error):
        assert isinstance(error, OSError)
        where = f"{error.filename} can't be written to" if error.filename else "writing failed"
        return f"{where} ({error.strerror}); choose another place or make room there"
    return None


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and newline, and marks that turn the direction of writing."""


def in_letters(text: str) -> str:
    r"""The text with control characters spelt out, as ``\x1b``: shown raw, they move the cursor, rewrite
    lines and, in some terminals, type."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _no_yaml(error: BaseException) -> str:
    """A settings file that can't be read, with its place and line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a settings file"
    return f"{where} is no YAML ({problem or _first_line(error)}); mend it there"


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for a misspelt name, or nothing when no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Names in a row, cut where nobody would read on."""
    names = list(names)
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def _config_refusal(error: BaseException) -> str:
    """The useful part of an error that Hydra or OmegaConf wrapped, perhaps several times."""
    for cause in _causes(error):
        if (
            isinstance(cause, ValueError)
            and _package(cause) not in ("hydra", "omegaconf")
            and _raised_in_vgen(cause.__traceback__)
        ):
            return str(cause)
        for speak in _SPEAKERS:
            sentence = speak(cause)
            if sentence:
                return sentence
    return _first_line(error)


def _unknown_option(error: BaseException) -> str | None:
    """method=animatedif: a group has no such option."""
    options, wanted = getattr(error, "options", None), getattr(error, "missing_cfg_file", None)
    if not options or not wanted:
        return None
    group, _, name = wanted.rpartition("/")
    remedy = _EXTRAS.get(f"{group}={name}")
    if remedy:
        return f"{group}={name} is not installed; {remedy}"
    return f"{group}={name} is not an option{nearest(name, options) or ';'} {group} can be {listed(options)}"


def _unreadable_override(error: BaseException) -> str | None:
    """out=[a : the command line itself cannot be parsed."""
    override = getattr(error, "override", None)
    if override is None:
        return None
    reason = _first_line(error)
    told = "" if override in reason else f" ({reason})"  # a letter that the grammar does not have
    remedy = "quote what holds blanks, commas, brackets or letters beyond a to z: 'key=[\"ä, b\",c]'"
    return f"'{override}' cannot be read as key=value{told}; {remedy}"


def _several_values(error: BaseException) -> str | None:
    """optim.lr=1e-4,3e-4 without -m."""
    found = re.match(r"Ambiguous value for argument '(.*)'", _first_line(error))
    if found is None:
        return None
    return (
        f"'{found[1]}' has several values; add -m for a run of each, write key=[A,B] for a list, or quote "
        "one text: 'key=\"A, B\"'"
    )


def _missing_value(error: BaseException) -> str | None:
    key = getattr(error, "full_key", None)
    return (
        f"{key} has no default and needs a value: {key}=..."
        if key and type(error).__name__ == "MissingMandatoryValue"
        else None
    )


def _unknown_key(error: BaseException) -> str | None:
    """trainer.max_step=3: the section has no such key."""
    parent, key = getattr(error, "parent_node", None), getattr(error, "full_key", None)
    if not key or parent is None or type(error).__name__ not in ("ConfigAttributeError", "ConfigKeyError"):
        return None
    return unknown_key(key, parent)


def unknown_key(key: str, beside: Iterable[object]) -> str:
    """``key`` with its section, and the names that the section has."""
    section = key.rpartition(".")[0]
    known = [f"{section}.{name}" if section else str(name) for name in beside if name != "hydra"]
    return (
        f"{key} is not a key{nearest(key, known) or ';'} {section or 'the top level'} has "
        f"{listed(sorted(known)) or 'no keys'}"
    )


def _wrong_value(error: BaseException) -> str | None:
    """trainer.precision=bf17: a value of the wrong type; blend=jeep: one value where a list is asked for;
    backbone.path=a where backbone=a is."""
    key = getattr(error, "full_key", None)
    if key and "Cannot convert 'dict' to string" in str(error):
        return f"{key} takes one value and has no keys of its own; write {key}=VALUE"
    if key and ("is not a ListConfig" in str(error) or "with ListConfig" in str(error)):
        return f"{key} takes a list; write {key}=[A,B], or {key}=[A] for one"
    return f"{key}: {_first_line(error)}" if key else None


_SPEAKERS = (
    *(_unknown_option, _unreadable_override, _several_values),
    *(_missing_value, _unknown_key, _wrong_value),
)
"""What words an error, the first that knows it."""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _raised_in_vgen(traceback: TracebackType | None) -> bool:
    """Whether vgen itself raised it: a ValueError out of the depths of a library is a defect, not a
    refusal."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "vgen"
