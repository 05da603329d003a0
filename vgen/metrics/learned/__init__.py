"""Metrics of real videos, as plug-ins over local weights: ``measure`` and ``comparable``. Guide:
docs/guides/metrics.md."""

from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.measure import measure
from vgen.metrics.learned.registry import catalogue
from vgen.metrics.learned.results import Manifest, Result, comparable
from vgen.metrics.learned.settings import LearnedMetrics

__all__ = ["Clips", "LearnedMetrics", "Manifest", "Result", "catalogue", "comparable", "measure"]
