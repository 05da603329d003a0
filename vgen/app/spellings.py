"""Spellings of keys that were: they keep working, and the new one is said. One spelling for one thing."""

from __future__ import annotations

import re

FIELD_NAMES = (
    *("pose", "flow", "depth", "edges", "scribble", "mask", "control"),
    *("source", "reference", "background"),
)
"""Fields that a person gives (a test holds them against those of the data)."""

RENAMED: dict[str, dict[str, str]] = {
    "edit": {"method.num_steps": "sampling.num_steps", "method.guidance": "sampling.guidance"},
    "evaluate": {
        "method.num_steps": "sampling.num_steps",
        "method.guidance": "sampling.guidance",
        "sampler": "sampling",
    },
}
"""By verb: what a key was called, and what it or the section is called now."""
WAYS = {"loras": ("merge", "sum", "extract")}
"""By verb: the words that may follow it, which are its key ``way``."""
CHOICES = ("toybox", "folder", "blank")
"""What ``backbone=`` of a training may be beside a folder: the files in conf/backbone."""


def respelt(verb: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments by today's spellings, and a line for each that was of another time."""
    out, said = [], []
    if arguments and arguments[0] in WAYS.get(verb, ()):
        arguments = [f"way={arguments[0]}", *arguments[1:]]
    for argument in stacked(given_fields(verb, louder(arguments))):
        key, given, value = argument.partition("=")
        now = _now(verb, key) if given else key
        if now != key:
            said.append(f"{key} is called {now} now")
        out += _backbone(verb, _new_keys(verb, f"{now}={value}" if given else argument))
    return out, said


def _now(verb: str, key: str) -> str:
    bare = key.lstrip("+~")
    for was, name in RENAMED.get(verb, {}).items():
        if bare == was or bare.startswith(f"{was}."):
            return key[: len(key) - len(bare)] + name + bare[len(was) :]
    return key


def _new_keys(verb: str, argument: str) -> str:
    """``data.given={pose: FILE}`` of a training, whose keys Hydra has to be told are new."""
    return f"+{argument}" if verb == "train" and argument.startswith("data.given={") else argument


def _backbone(verb: str, argument: str) -> list[str]:
    """``backbone=PATH``, as in every verb, for a training whose image models are choices."""
    key, _, value = argument.partition("=")
    if verb != "train" or key != "backbone" or value in CHOICES or not value:
        return [argument]
    return ["backbone=folder", f"backbone.path={value}"]


_SLOT = re.compile(
    r"(?P<list>stack|loras|cascade)\.(?P<name>\w+)\.(?P<key>file|scale|num_frames)=(?P<value>.*)", re.DOTALL
)


_LOUDNESS = re.compile(r"sampling\.conditions\.(?P<name>\w+)\.(?P<key>scale|start|end)=(?P<value>.+)")
_FIELD = re.compile(r"(?:fields\.)?(?P<name>\w+?)(?P<of>\.of)?=(?P<value>.+)", re.DOTALL)
_OF_FIELD = re.compile(r"(?:fields\.)?(?P<name>\w+)\.(?P<key>retarget|fit)=(?P<value>.+)", re.DOTALL)
FIELDS_OF = {
    "generate": (*FIELD_NAMES, "frames"),
    "edit": tuple(name for name in FIELD_NAMES if name != "source"),  # there it is a prompt
}
"""By verb: what may be given as ``edges=FILE`` (as it is), ``edges.of=FILE`` (to be found there) and
``frames=[0:FILE,15:FILE]`` (of some frames)."""


def louder(arguments: list[str]) -> list[str]:
    """``sampling.conditions.edges.scale=0.8``, ``.start=0`` and ``.end=0.5`` as the one list that Hydra
    reads."""
    found: dict[str, dict[str, str]] = {}
    others = []
    for argument in arguments:
        match = _LOUDNESS.fullmatch(argument)
        if match is None:
            others.append(argument)
        else:
            found.setdefault(match["name"], {})[match["key"]] = match["value"]
    entries = [_loudness(name, given) for name, given in found.items()]
    return [*others, f"sampling.conditions=[{','.join(entries)}]"] if entries else others


def _loudness(name: str, given: dict[str, str]) -> str:
    window = ",".join(f"{key}:{given[key]}" for key in ("start", "end") if key in given)
    said = [f"name:{name}", f"window:{{{window}}}"]
    if "scale" in given:
        said.append(f"scale:{given['scale']}")
    return "{" + ",".join(said) + "}"


def given_fields(verb: str, arguments: list[str]) -> list[str]:
    """``edges=clip.mp4``, ``pose.of=dance.mp4``, ``pose.fit=pad`` and ``pose.retarget=ann.png`` as the one
    list that Hydra reads."""
    names = FIELDS_OF.get(verb, ())
    files: list[tuple[str, str]] = []
    more: dict[str, str] = {}
    others = []
    for argument in arguments:
        file, key = _FIELD.fullmatch(argument), _OF_FIELD.fullmatch(argument)
        if file is not None and file["name"] in names:
            found = "true" if file["of"] else "false"
            files.append((file["name"], f"file:{_quoted(file['value'])},found:{found}"))
        elif key is not None and key["name"] in names:
            more[key["name"]] = more.get(key["name"], "") + f",{key['key']}:{_quoted(key['value'])}"
        else:
            others.append(argument)
    files += [(name, 'file:""') for name in more if name not in dict(files)]
    entries = [f"name:{name},{said}{more.get(name, '')}" for name, said in files]
    told = ",".join("{" + entry + "}" for entry in entries)
    return [*others, f"fields=[{told}]"] if entries else others


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def stacked(arguments: list[str]) -> list[str]:
    """``stack.pan.file=FILE stack.pan.scale=0.8`` as the one list that Hydra reads, and the same for
    ``loras`` and ``cascade``; slots in the order in which they are first named."""
    slots: dict[str, dict[str, dict[str, str]]] = {}
    others = []
    for argument in arguments:
        found = _SLOT.fullmatch(argument)
        if found is None:
            others.append(argument)
        else:
            of_list = slots.setdefault(found["list"], {})
            of_list.setdefault(found["name"], {})[found["key"]] = found["value"]
    return [*others, *(_list(name, given) for name, given in slots.items())]


def _list(name: str, given: dict[str, dict[str, str]]) -> str:
    entries = [_entry(slot, said) for slot, said in given.items()]
    return f"{name}=[{','.join(entries)}]"


def _entry(name: str, given: dict[str, str]) -> str:
    said = [f"name:{name}"]
    if "file" in given:
        said.append(f"file:{_quoted(given['file'])}")
    said += [f"{key}:{given[key]}" for key in ("scale", "num_frames") if key in given]
    return "{" + ",".join(said) + "}"
