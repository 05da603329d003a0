"""``vgen loras``: low-rank layers merged into a model, added up to one file, or taken out of two models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from rich.table import Table
from torch import Tensor

import vgen
from vgen.app.config import run_hydra
from vgen.app.export import DTYPE, Width, beside, cast
from vgen.app.loading import load_backbone
from vgen.app.low_rank import (
    INSIDE,
    Given,
    Taken,
    added,
    even,
    merge_into_image,
    merge_into_module,
    of_image_models,
    of_modules,
    read,
    reduced,
)
from vgen.app.stacks import StackEntry, adapter_path
from vgen.app.terminal import Terminal
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.formats import proof
from vgen.formats.adapter import Card, file_sha256, load_adapter, save_adapter
from vgen.formats.foreign import CARD_FILE, Rows
from vgen.formats.low_rank import Pair, tensors_of
from vgen.methods import low_rank_recipe, name_of
from vgen.spec import Choice, field, spec

ADAPTER = "adapter.safetensors"


class Way(Choice):
    """``merge`` adds layers to the weights of a model, ``sum`` makes one file of several, ``extract`` takes
    the difference of two models."""

    MERGE = "merge"
    SUM = "sum"
    EXTRACT = "extract"


@spec
class Loras:
    """``loras`` are files of other programs or adapters of vgen's, each with its scale. ``backbone`` is the
    image model that they are for; by default that of ``motion``, or of the first adapter of vgen's. With
    ``motion`` (a run) layers are merged into that motion module, or it is what ``tuned`` began as. ``rank`` 0
    is as high as it takes."""

    way: Way | None = None
    loras: list[StackEntry] = field(default_factory=list)
    backbone: str = ""
    motion: str = ""
    tuned: str = ""
    rank: int = 0
    out: str = ""
    dtype: Width = Width.FP32

    def __post_init__(self) -> None:
        if self.way is None:
            ways = " or ".join(way.value for way in Way)
            raise ValueError(f"vgen loras needs to be told what to do: {ways}, as 'vgen loras merge ...'")
        if not self.out:
            raise ValueError(f"vgen loras {self.way.value} needs the folder to write: out=FOLDER")
        if self.rank < 0 or (self.rank and self.way is Way.MERGE):
            raise ValueError(
                f"rank is for sum and extract, 1 or more, or 0 for as high as it takes, got rank={self.rank} "
                f"with {self.way.value}; leave it out"
            )
        self._check_sources()

    def _check_sources(self) -> None:
        extracts = self.way is Way.EXTRACT
        if extracts is bool(self.loras) or extracts is not bool(self.tuned):
            raise ValueError(
                "extract needs tuned= and no loras, merge and sum need loras.NAME.file=FILE and no tuned=, "
                f"got {len(self.loras)} loras and tuned={self.tuned or 'nothing'} with {self.way_said()}"
            )
        if self.motion and self.way is Way.SUM:
            raise ValueError(
                f"sum makes a file of layers alone, got motion={self.motion}; leave it out, or merge instead"
            )
        if not (self.backbone or self.motion) and self.way is not Way.SUM:
            raise ValueError(
                f"{self.way_said()} needs the model that the layers are for: backbone=FOLDER for an image "
                "model, motion=RUN for a motion module"
            )

    def way_said(self) -> str:
        return "" if self.way is None else self.way.value

    def place(self) -> Path:
        """The folder to write. Raises ValueError where something is there."""
        out = Path(self.out).expanduser()
        if out.exists():
            raise ValueError(f"{out} exists and is never overwritten; remove it or choose another out=")
        return out


def offer() -> None:
    ConfigStore.instance().store(name="schema", node=Loras)


def main() -> None:
    run_hydra("loras", offer, lambda wish, _plain: Terminal().print(loras(wish)))


def loras(wish: Loras) -> Table:
    """Write beside, read back, then move into place."""
    ways: dict[Way | None, Callable[[Loras], Rows]] = {
        Way.MERGE: merge,
        Way.SUM: add_up,
        Way.EXTRACT: take_out,
    }
    place = wish.place()
    rows = ways[wish.way](wish)
    table = Table(title=f"loras: {wish.way_said()}", show_header=False, title_justify="left", min_width=44)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in [("wrote", str(place)), *rows]:
        table.add_row(name, text)
    return table


# -- merge ---------------------------------------------------------------------------------------------------
def merge(wish: Loras) -> Rows:
    return _merged_module(wish) if wish.motion else _merged_image_model(wish)


def _merged_image_model(wish: Loras) -> Rows:
    model = load_backbone(wish.backbone)
    given = _given(wish, model)
    num = merge_into_image(model, given)
    card = _card_of_folder(model, given)
    with beside(wish.place()) as place:
        save(model, place, DTYPE[wish.dtype])
        (place / CARD_FILE).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
        back = load_backbone(str(place)).components()
        for name, module in model.components().items():
            written = {n: v.to(DTYPE[wish.dtype]).float() for n, v in module.state_dict().items()}
            proof.same(written, back[name].state_dict(), f"{wish.out}, {name},")
    return [*_told(given), ("changed", f"{num} weights of {model.source}"), ("read back", "equal to the bit")]


def _card_of_folder(model: ImageModel, given: Sequence[Given]) -> dict[str, Any]:
    merged = [one.said() for one in given]
    return {"made_by": "vgen loras merge", "vgen": vgen.__version__, "of": model.source, "merged": merged}


def _merged_module(wish: Loras) -> Rows:
    path = adapter_path(wish.motion, "motion")
    tensors, card = load_adapter(path)
    model = load_backbone(
        wish.backbone or card.backbone_source, "" if wish.backbone else f"motion={wish.motion}"
    )
    given = _given(wish, model)
    num = merge_into_module(tensors, given)
    told = {**card.summary, "merged": [one.said() for one in given]}
    made = replace(card, summary=told, run={}, init=_began_as(path))
    rows = _saved(wish, tensors, made)
    return [*_told(given), ("changed", f"{num} weights of {path}"), *rows]


def _began_as(path: Path) -> dict[str, Any]:
    return {"file": str(path.absolute()), "sha256": file_sha256(path)}


# -- sum -----------------------------------------------------------------------------------------------------
def add_up(wish: Loras) -> Rows:
    model = load_backbone(_backbone(wish))
    given = _given(wish, model)
    pairs = added(given)
    rows: Rows = [("exact", f"rank {_ranks(pairs)}")]
    if wish.rank:
        pairs, error, worst = reduced(pairs, wish.rank)
        told = f"{error:.2%} of the sum's norm is lost, {worst:.2%} in the worst layer"
        rows = [("reduced", f"to rank {_ranks(pairs)}: {told}")]
    summary = {"summed": [one.said() for one in given], "rank": wish.rank}
    return [*_told(given), *rows, *_written(wish, pairs, model, summary)]


def _backbone(wish: Loras) -> str:
    """As it is given, or as the first adapter of vgen's names it."""
    if wish.backbone:
        return wish.backbone
    for entry in wish.loras:
        path = Path(entry.file).expanduser()
        path = path / ADAPTER if path.is_dir() else path
        try:
            return load_adapter(path)[1].backbone_source
        except ValueError:
            continue
    raise ValueError(
        "files of other programs do not say what image model they are for; give it as backbone=FOLDER"
    )


# -- extract -------------------------------------------------------------------------------------------------
def take_out(wish: Loras) -> Rows:
    taken, model, summary = _of_modules(wish) if wish.motion else _of_image_models(wish)
    layers = f"{len(taken.pairs)} of rank {_ranks(taken.pairs)}"
    rows: Rows = [
        ("layers", layers),
        ("kept", f"{taken.kept:.2%} of the change's energy, {taken.worst:.2%} in the worst layer"),
    ]
    if taken.left_out:
        told = (
            f"{len(taken.left_out)} tensors differ that are no projection or convolution of a UNet or text "
        )
        rows.append(("left out", f"{told}encoder (first: {taken.left_out[0]})"))
    return [*rows, *_written(wish, taken.pairs, model, summary | {"kept": taken.kept, "rank": wish.rank})]


def _of_image_models(wish: Loras) -> tuple[Taken, ImageModel, dict[str, Any]]:
    model, tuned = load_backbone(wish.backbone), load_backbone(wish.tuned)
    return of_image_models(model, tuned, wish.rank), model, {"of": model.source, "extracted": tuned.source}


def _of_modules(wish: Loras) -> tuple[Taken, ImageModel, dict[str, Any]]:
    base, tuned = adapter_path(wish.motion, "motion"), adapter_path(wish.tuned, "tuned")
    (before, card), (after, _) = load_adapter(base), load_adapter(tuned)
    model = load_backbone(
        wish.backbone or card.backbone_source, "" if wish.backbone else f"motion={wish.motion}"
    )
    said = {"of": _began_as(base), "extracted": _began_as(tuned)}
    return of_modules(before, after, wish.rank), model, said


# -- what is common ------------------------------------------------------------------------------------------
def _given(wish: Loras, model: ImageModel) -> list[Given]:
    return [read(entry, model) for entry in wish.loras]


def _told(given: Sequence[Given]) -> Rows:
    return [(one.named.split(".")[1], f"{one.path}: {_layers(one)}") for one in given]


def _layers(one: Given) -> str:
    return f"{len(one.pairs)} layers of rank {_ranks(one.pairs)}, times {one.scale:g}"


def _ranks(pairs: Sequence[Pair]) -> str:
    ranks = sorted({pair.rank for pair in pairs})
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _written(wish: Loras, pairs: Sequence[Pair], model: ImageModel, summary: dict[str, Any]) -> Rows:
    """Layers as an adapter of vgen's; those of a motion module at one rank, as files of those have it."""
    if all(pair.place.into == INSIDE for pair in pairs):
        pairs = even(pairs)
    recipe = low_rank_recipe(pairs, model)
    made = Card.of(name_of(recipe), recipe, model, run={}, summary=summary)
    return _saved(wish, tensors_of(list(pairs)), made)


def _saved(wish: Loras, tensors: dict[str, Tensor], card: Card) -> Rows:
    narrow = cast(tensors, wish.dtype)
    with beside(wish.place()) as place:
        place.mkdir()
        save_adapter(place / ADAPTER, narrow, card, _width(wish))
        back, _ = load_adapter(place / ADAPTER)
        num = proof.same(narrow, back, wish.out)
    return [
        ("method", f"{card.recipe}; 'vgen export run={wish.out}' writes it for other programs"),
        ("read back", f"{num} tensors, equal to the bit"),
    ]


def _width(wish: Loras) -> torch.dtype:
    return DTYPE[wish.dtype]
