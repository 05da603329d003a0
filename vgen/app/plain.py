"""Typed configuration from plain data, by the types of the fields and nothing else."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from typing import Any, TypeVar

_T = TypeVar("_T")
_KINDS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    list: (list,),
}
"""What JSON may hold for a field of each type; a truth value is no number."""


def from_plain(cls: type[_T], data: Any) -> _T:
    """Build the dataclass ``cls`` from JSON data. Raises ValueError for unknown keys, and for values of
    another kind than their field's."""
    hints = typing.get_type_hints(cls)
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} must be a section of names and values, got {data!r}")
    unknown = set(data) - {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # a dataclass
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no field {', '.join(sorted(unknown))}; the file was written by another "
            "version of vgen"
        )
    return cls(**{name: _value(hints[name], value, f"{cls.__name__}.{name}") for name, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_plain(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _choice(hint, value, where)
    kinds = _KINDS.get(typing.get_origin(hint) or hint)
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool)):
        raise ValueError(f"{where} must be {kinds[0].__name__}, got {value!r}")
    if typing.get_origin(hint) is list:
        return [_value(typing.get_args(hint)[0], v, where) for v in value]
    return value


def _choice(hint: type[Enum], value: Any, where: str) -> Enum:
    known = [member.value for member in hint]
    if value not in known:
        raise ValueError(f"{where} must be one of {', '.join(map(str, known))}, got {value!r}")
    return hint(value)
