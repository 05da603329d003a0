"""The one decorator every configuration value in the house wears, and the enum its choices are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, EnumMeta
from types import MappingProxyType
from typing import Any

from typing_extensions import dataclass_transform

__all__ = ["Choice", "field", "spec"]


class _ByValue(EnumMeta):
    """Hydra looks a choice up by member name; people write its value (``trainer.precision=bf16``)."""

    def __getitem__(cls, name: str) -> Any:
        member: Enum
        for member in cls:
            if name in (member.value, member.name):
                return member
        raise KeyError(name)

    @property
    def __members__(cls) -> MappingProxyType[str, Any]:
        """By value, too: what OmegaConf lists where it refuses a word is what may be written."""
        return MappingProxyType({str(member.value): member for member in list[Enum](cls)})


class Choice(Enum, metaclass=_ByValue):
    """An enum that a configuration may name by value."""


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
def spec(cls: type) -> type:
    """``dataclass(kw_only=True, slots=True)``. Not frozen: Hydra's nodes of frozen classes refuse
    overrides."""
    return dataclass(kw_only=True, slots=True)(cls)
