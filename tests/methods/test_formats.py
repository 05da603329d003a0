"""Laws of the formats that recipes carry: what is written is recognised, by one format alone, and comes back
with its knobs."""

from __future__ import annotations

import fnmatch
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vgen.app.pieces import assembled, knobs_of, recognised
from vgen.backbones.image_model import ImageModel
from vgen.formats.adapter import Card
from vgen.formats.foreign import Foreign, Learnt, Source
from vgen.methods import assemble, catalogue

PAIRS = [
    (name, one)
    for name, recipe in catalogue().items()
    for one in recipe.formats
    if one.containers and not getattr(one, "written_only", False)  # whose it is no file says
]
IDS = [f"{name} {one.name}" for name, one in PAIRS]
EVERY = [one for recipe in catalogue().values() for one in recipe.formats]


def learnt_by(name: str, model: ImageModel) -> Learnt:
    recipe, draw = catalogue()[name](), torch.Generator().manual_seed(0)
    video_model = assemble(recipe, model)
    tensors: dict[str, Tensor] = {}
    for part, module in video_model.components().items():
        for parameter, value in module.named_parameters():
            if any(fnmatch.fnmatch(f"{part}.{parameter}", pattern) for pattern in recipe.learns()):
                tensors[f"{part}.{parameter}"] = value + 0.05 * torch.randn(value.shape, generator=draw)
    video_model.unet.eject()
    return Learnt(
        tensors={n: v.detach() for n, v in tensors.items()},
        knobs=knobs_of(recipe),
        card=Card.of(name, recipe, model, {}, {}),
        model=model,
        assembled=partial(assembled, type(recipe), model),
    )


def written(one: Foreign, learnt: Learnt, folder: Path) -> Source:
    path = folder / ("out" if one.folder else f"out.{one.containers[-1].value}")
    rows = one.write(path, learnt)
    assert rows[0][0] == "read back"
    assert "equal to the bit" in rows[0][1]
    return Source(str(path), path)


@pytest.mark.parametrize(("name", "one"), PAIRS, ids=IDS)
def test_what_is_written_is_recognised_and_comes_back(
    tiny: ImageModel, tmp_path: Path, name: str, one: Foreign
) -> None:
    learnt = learnt_by(name, tiny)
    before = {n: v.clone() for n, v in tiny.unet.state_dict().items()}
    source = written(one, learnt, tmp_path)
    assert {known.name for known in EVERY if known.recognises(source)} == {one.name}
    assert recognised(source)[1].name == one.name
    assert recognised(source, name) == (name, one)
    found = one.read(source, tiny.unet, 0)
    assert found.tensors.keys() == learnt.tensors.keys()
    assert all(torch.equal(found.tensors[n], v) for n, v in learnt.tensors.items())
    assert one.facts(learnt.knobs) == one.facts({**learnt.knobs, **found.knobs})
    assert all(torch.equal(v, before[n]) for n, v in tiny.unet.state_dict().items())


@pytest.mark.parametrize("name", [name for name, recipe in catalogue().items() if recipe.formats])
def test_a_recipes_formats_have_names_of_their_own(name: str) -> None:
    names = [one.name for one in catalogue()[name].formats]
    assert len(set(names)) == len(names)
    assert not {"vgen", "image_model"} & set(names)
