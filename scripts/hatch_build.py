"""Build hook: an installed wheel carries the run configurations and the shipped image model as vgen/_conf and
vgen/_data.

An editable install gets neither: there vgen.resources finds the checkout's own conf/ and data/.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = {"conf": "vgen/_conf", "data/README.md": "vgen/_data/README.md", "data/toybox": "vgen/_data/toybox"}


class ShipResources(BuildHookInterface):
    """Adds what exists of SHIPPED; the rest of data/ is what users build, and stays out."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for source, target in SHIPPED.items():
            if (Path(self.root) / source).exists():
                build_data["force_include"][str(Path(self.root) / source)] = target
