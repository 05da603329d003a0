"""The bench of one measurement: networks loaded once, features computed once, whichever metrics ask for
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.settings import LearnedMetrics
from vgen.metrics.learned.weights import Located, Slot, locate

_T = TypeVar("_T")


class Tools:
    def __init__(self, settings: LearnedMetrics, clips: Clips) -> None:
        self.settings = settings
        self.clips = clips
        self._made: dict[tuple, Any] = {}

    def once(self, key: tuple, make: Callable[[], _T]) -> _T:
        """The value of ``make``, made when first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def located(self, slot: Slot) -> Located:
        return self.once(("located", slot.name), lambda: locate(slot, getattr(self.settings, slot.name)))

    def network(self, slot: Slot, load: Callable[[Located, str], _T]) -> _T:
        """``load(located, device)``, once per slot."""
        return self.once(("network", slot.name), lambda: load(self.located(slot), self.settings.device))

    def features(self, name: str, field: str, encode: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """``encode`` of each entry of a field of the clips (``videos``, ``sources`` ...), f d each,
        remembered by ``name``."""
        return self.once(
            ("features", name, field), lambda: [encode(video) for video in getattr(self.clips, field)]
        )
