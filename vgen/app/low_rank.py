"""Low-rank layers as what they are, changes of weights: merged into them, added to one another, taken out of
two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vgen.app.stacks import StackEntry, adapter_path, recipe_of
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import INSERTED
from vgen.formats import low_rank, state_file
from vgen.formats.adapter import file_sha256, load_adapter, plain, refuse_no_numbers, unet_shapes
from vgen.formats.low_rank import Pair
from vgen.formats.low_rank_files import WEIGHTS
from vgen.formats.low_rank_names import UNET, Place
from vgen.layers.lora import extract, product, summed, truncated
from vgen.methods._low_rank import text_and_unet

INSIDE = f"{UNET}.{INSERTED}"
"""The net of layers that stand in a motion module."""


@dataclass(frozen=True, slots=True)
class Given:
    """One file: how it was named, where it lies, its layers, and how loud they are."""

    named: str
    path: Path
    pairs: list[Pair]
    scale: float

    def said(self) -> dict[str, object]:
        """For the card of what is made of it."""
        return {"file": str(self.path.absolute()), "sha256": file_sha256(self.path), "scale": self.scale}


@dataclass(frozen=True, slots=True)
class Taken:
    """What an extraction gives: layers, the share of the change's energy (its squared norm) that they keep,
    of all and of the worst layer, and the tensors that differ and are no projection or convolution."""

    pairs: list[Pair]
    kept: float
    worst: float
    left_out: list[str]


def read(entry: StackEntry, model: ImageModel) -> Given:
    """The layers of a file of another program, or of an adapter of vgen's. Raises ValueError where they do
    not fit the image model, or the adapter holds anything else."""
    named = f"loras.{entry.name}.file={entry.file}"
    path = Path(entry.file).expanduser()
    if (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    elif path.is_dir():
        path = adapter_path(entry.file, f"loras.{entry.name}.file")
    if not path.is_file():
        raise ValueError(f"{named} is no file; give a .safetensors or .ckpt of low-rank layers, or a run")
    try:
        pairs = _pairs(path, model)
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from error
    refuse_no_numbers({f"{pair.place.path}.up": pair.up for pair in pairs}, named)
    refuse_no_numbers({f"{pair.place.path}.down": pair.down for pair in pairs}, named)
    return Given(named, path, pairs, entry.scale)


def _pairs(path: Path, model: ImageModel) -> list[Pair]:
    entries, metadata = state_file.read(path)
    if "vgen" in metadata:
        return _of_ours(path, model)
    return low_rank.read(entries, text_and_unet(model), metadata)


def _of_ours(path: Path, model: ImageModel) -> list[Pair]:
    tensors, card = load_adapter(path)
    pairs = low_rank.pairs_of(tensors, plain(asdict(recipe_of(card, str(path)))))
    if 2 * len(pairs) != len(tensors):
        raise ValueError(
            f"{len(tensors) - 2 * len(pairs)} of its {len(tensors)} tensors belong to no low-rank layer; "
            "give a file of LoRA layers alone, and a motion module as motion="
        )
    if card.shapes and card.shapes != unet_shapes(model.unet):
        raise ValueError(
            f"it was trained on an image model of other shapes, {card.backbone_source}; give that, or one "
            "of its family, as backbone="
        )
    return pairs


# -- merging -------------------------------------------------------------------------------------------------
@torch.no_grad()
def merge_into_image(model: ImageModel, given: Sequence[Given]) -> int:
    """Add what the layers add to the weights of an image model, in place; returns how many weights."""
    nets, changed = text_and_unet(model), set()
    for one in given:
        inside = [pair for pair in one.pairs if pair.place.into not in nets]
        if inside:
            raise ValueError(
                f"{one.named}: {len(inside)} of its {len(one.pairs)} layers stand in a motion module; give "
                "the module that they are to be merged into, as motion=RUN"
            )
        for pair in one.pairs:
            _add(_host(nets, pair.place).weight, pair, one)
            changed.add(pair.place)
    return len(changed)


@torch.no_grad()
def merge_into_module(tensors: dict[str, Tensor], given: Sequence[Given]) -> int:
    """The same for the tensors of a motion module's adapter."""
    changed = set()
    for one in given:
        names = {f"{UNET}.{pair.place.path}.weight": pair for pair in one.pairs if pair.place.into == INSIDE}
        lost = len(one.pairs) - len(names.keys() & tensors.keys())
        if lost:
            raise ValueError(
                f"{one.named}: {lost} of its {len(one.pairs)} layers match nothing in the motion module; "
                "they were made for an image model (leave motion= out), or for another version of the module"
            )
        for name, pair in names.items():
            _add(tensors[name], pair, one)
            changed.add(name)
    return len(changed)


def _add(weight: Tensor, pair: Pair, one: Given) -> None:
    change = _delta(pair)
    if change.shape != weight.shape:
        raise ValueError(
            f"{one.named}: its layer at {pair.place.path} changes a weight of {tuple(change.shape)}, here it "
            f"has {tuple(weight.shape)}; it was made for another model"
        )
    weight += one.scale * change.to(weight)


def _delta(pair: Pair) -> Tensor:
    return pair.alpha / pair.rank * product(pair.down.double(), pair.up.double())


def _host(nets: Mapping[str, nn.Module], place: Place) -> nn.Linear | nn.Conv2d:
    host = nets[place.into].get_submodule(place.path)
    assert isinstance(host, nn.Linear | nn.Conv2d)  # others are no places
    return host


# -- adding --------------------------------------------------------------------------------------------------
def added(given: Sequence[Given]) -> list[Pair]:
    """One layer at each place that adds what all add there: its rank is the sum of theirs, and its scale one,
    as theirs are in it."""
    parts: dict[Place, list[tuple[Tensor, Tensor]]] = {}
    for one in given:
        for pair in one.pairs:
            loud = pair.up.double() * (one.scale * pair.alpha / pair.rank)
            parts.setdefault(pair.place, []).append((pair.down.double(), loud))
    return [_whole(place, *_of_one_place(place, here)) for place, here in parts.items()]


def _of_one_place(place: Place, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    shapes = {(down.shape[1:], up.shape[:1]) for down, up in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"the files have layers of unlike shapes at {place.path}; they were made for unlike models"
        )
    return summed(parts)


def _whole(place: Place, down: Tensor, up: Tensor) -> Pair:
    """Without a scale of its own, in full precision."""
    return Pair(place, down.float().contiguous(), up.float().contiguous(), float(len(down)))


def reduced(pairs: Sequence[Pair], rank: int) -> tuple[list[Pair], float, float]:
    """The nearest layers of this rank at most, and how far they are from the given ones in shares of those'
    norm: of all together, and of the worst."""
    out = [_whole(pair.place, *truncated(pair.down, pair.up, rank)) for pair in pairs]
    kept = [(_energy(new), _energy(old)) for new, old in zip(out, pairs, strict=True)]
    return out, *(max(0.0, 1 - share) ** 0.5 for share in _shares(kept))


def even(pairs: Sequence[Pair]) -> list[Pair]:
    """The same layers at one rank, by zeros, for files that have one for all."""
    rank = max(pair.rank for pair in pairs)
    return [_padded(pair, rank) for pair in pairs]


def _padded(pair: Pair, rank: int) -> Pair:
    more = rank - pair.rank
    down = torch.cat([pair.down, pair.down.new_zeros(more, *pair.down.shape[1:])])
    up = torch.cat([pair.up, pair.up.new_zeros(len(pair.up), more, *pair.up.shape[2:])], 1)
    return replace(pair, down=down, up=up, alpha=pair.alpha * rank / pair.rank)


def _energy(pair: Pair) -> float:
    """The squared norm of the change, without forming it."""
    up, down = pair.up.double().flatten(1), pair.down.double().flatten(1)
    return float(((up.T @ up) * (down @ down.T)).sum()) * (pair.alpha / pair.rank) ** 2


def _shares(kept: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of all together and of the worst: the first of each two over the second."""
    whole = sum(of for _, of in kept)
    total = sum(now for now, _ in kept) / whole if whole else 1.0
    return total, min((now / of for now, of in kept if of), default=1.0)


# -- taking out ----------------------------------------------------------------------------------------------
@torch.no_grad()
def of_image_models(base: ImageModel, tuned: ImageModel, rank: int) -> Taken:
    """The change from one image model to another of its family; ``rank`` 0 is as high as it takes."""
    before, after = _tensors(base), _tensors(tuned)
    _refuse_unlike(before, after, "image models", "give two of one family")
    hosts = {f"{place.into}.{place.path}.weight": place for place in _places(text_and_unet(base))}
    return _taken(before, after, hosts, rank)


@torch.no_grad()
def of_modules(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], rank: int) -> Taken:
    """The same for the tensors of two motion modules' adapters."""
    _refuse_unlike(base, tuned, "motion modules", "give two that one recipe made")
    mark = f"{UNET}.{INSERTED}."
    hosts = {
        name: Place(INSIDE, name.removeprefix(f"{UNET}.").removesuffix(".weight"))
        for name, value in base.items()
        if name.startswith(mark) and ".temporal_transformer." in name and _projects(name, value)
    }
    return _taken(base, tuned, hosts, rank)


def _projects(name: str, value: Tensor) -> bool:
    return name.endswith(".weight") and value.ndim == 2


def _tensors(model: ImageModel) -> dict[str, Tensor]:
    return {
        f"{net}.{name}": value
        for net, module in model.components().items()
        for name, value in module.state_dict().items()
    }


def _places(nets: Mapping[str, nn.Module]) -> Iterator[Place]:
    for net, module in nets.items():
        for path, inner in module.named_modules():
            if isinstance(inner, nn.Linear) or (isinstance(inner, nn.Conv2d) and inner.groups == 1):
                yield Place(net, path)


def _refuse_unlike(before: Mapping[str, Tensor], after: Mapping[str, Tensor], what: str, remedy: str) -> None:
    unlike = [n for n in {**before, **after} if n not in before or n not in after]
    unlike += [n for n in before.keys() & after.keys() if before[n].shape != after[n].shape]
    if unlike:
        raise ValueError(
            f"the two {what} differ in the names or shapes of {len(unlike)} tensors (first: {min(unlike)}), "
            f"so there is no change from one to the other; {remedy}"
        )


def _taken(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], hosts: Mapping[str, Place], rank: int
) -> Taken:
    differ = [name for name in before if not torch.equal(before[name], after[name])]
    changed = [name for name in differ if name in hosts]
    if not changed:
        raise ValueError(
            "the two are equal in every projection and convolution, so there is nothing to extract; give a "
            "tuned one with tuned="
        )
    pairs, kept = [], []
    for name in changed:
        change = after[name].double() - before[name].double()
        pairs.append(_whole(hosts[name], *extract(change, rank or min(change.flatten(1).shape))))
        kept.append((_energy(pairs[-1]), float(change.square().sum())))
    total, worst = _shares(kept)
    return Taken(pairs, min(1.0, total), min(1.0, worst), [name for name in differ if name not in hosts])
