"""The guide names every metric, as the catalogue has it, and every setting."""

from pathlib import Path

import pytest

from vgen.metrics.learned import LearnedMetrics, catalogue

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "metrics.md").read_text()


@pytest.mark.parametrize("name", catalogue())
def test_the_guides_row_is_the_catalogues(name):
    plugin = catalogue()[name]
    needs, slots = ", ".join(plugin.needs), ", ".join(slot.name for slot in plugin.slots)
    cells = (
        f"`{name}`",
        plugin.metric.about,
        plugin.better or "–",
        needs or "–",
        slots or "–",
        plugin.source,
    )
    assert f"| {' | '.join(cells)} |" in GUIDE


def test_every_slot_is_a_setting_and_in_the_guide():
    for name in {slot.name for plugin in catalogue().values() for slot in plugin.slots}:
        assert hasattr(LearnedMetrics(), name)
        assert f"`{name}`" in GUIDE
