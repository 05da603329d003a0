"""The one decorator every configuration value in the house wears."""
from __future__ import annotations

from dataclasses import dataclass, field

spec = dataclass(kw_only=True, slots=True)

__all__ = ["field", "spec"]
