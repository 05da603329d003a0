"""``vgen sites [BACKBONE]``: where layers may be inserted."""

from __future__ import annotations

import sys

import torch
from rich.table import Table

from vgen.app.loading import TOYBOX, load_backbone
from vgen.app.terminal import Terminal
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.sites import sites


def main() -> None:
    names = sys.argv[1:] or [TOYBOX]
    if len(names) > 1:
        raise ValueError(
            f"the sites are those of one image model ({', '.join(b.value for b in Blank)} or a folder), got "
            f"{' '.join(names)}"
        )
    name = names[0].removeprefix("backbone=")
    if name in [b.value for b in Blank] and name != TOYBOX:
        with torch.device("meta"):
            unet = blank_unet(Blank(name))
    else:
        unet = load_backbone(name).unet
    table = Table(title=f"sites of {name}", title_justify="left")
    for heading in ("path", "kind", "stage", "level", "block", "index", "channels"):
        table.add_column(heading, overflow="fold")
    for site in sites(unet):
        table.add_row(
            site.path,
            site.kind.value,
            site.stage.value,
            *(str(v) for v in (site.level, site.block, site.index, site.channels)),
        )
    Terminal().print(table)
