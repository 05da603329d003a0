"""Tune-A-Video checkpoints: both spellings in, and only on the image model they were tuned on."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.formats.adapter import put
from vgen.formats.tune_a_video import export, import_, recognises
from vgen.methods import assemble
from vgen.methods.tune_a_video import TuneAVideo


@pytest.fixture
def tuned(tiny: ImageModel) -> dict[str, Tensor]:
    """What a run learnt, by vgen's names; the image UNet is left as it was."""
    unet = assemble(TuneAVideo(), tiny).unet
    names = [
        n
        for n, _ in unet.named_parameters()
        if any(fnmatchcase(f"unet.{n}", p) for p in TuneAVideo().learns())
    ]
    generator = torch.Generator().manual_seed(0)
    out = {f"unet.{n}": torch.randn(unet.get_parameter(n).shape, generator=generator) for n in names}
    unet.eject()
    return out


def test_out_and_in_again_is_the_same(tiny: ImageModel, tuned: dict[str, Tensor]) -> None:
    state = export(tuned, tiny.unet)
    assert recognises(state)
    assert not recognises(tiny.unet.state_dict())
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn_temp.to_q.weight" in state
    back = import_(state, tiny.unet).tensors
    assert {n: v for n, v in back.items() if n in tuned}.keys() == tuned.keys()
    assert all(torch.equal(back[n], v) for n, v in tuned.items())


def test_the_forks_spelling_is_read_and_norms_come_along(tiny: ImageModel, tuned: dict[str, Tensor]) -> None:
    state = {
        re.sub(r"\.(attn|norm)_temp\.", r".\1_temporal.", name): value
        for name, value in export(tuned, tiny.unet).items()
    }
    norm = "down_blocks.0.attentions.0.transformer_blocks.0.norm_temporal.weight"
    state[norm] = torch.full((32,), 2.0)
    found = import_(state, tiny.unet)
    assert torch.equal(
        found.tensors["unet.inserted.down_blocks/0/attentions/0/transformer_blocks/0.norm_temp.weight"],
        state[norm],
    )
    assert "attn_temporal" in found.origin
    assert "norm scope is clip" in found.assumed
    assert "norms were tuned too" in found.notes[0]
    put(assemble(TuneAVideo(), tiny).components(), found.tensors, TuneAVideo().learns())


def test_half_precision_is_the_same_image_model(tiny: ImageModel, tuned: dict[str, Tensor]) -> None:
    import_({n: v.half() for n, v in export(tuned, tiny.unet).items()}, tiny.unet)


def test_what_does_not_fit_is_said(tiny: ImageModel, tuned: dict[str, Tensor]) -> None:
    state = export(tuned, tiny.unet)
    other = state | {"conv_in.weight": state["conv_in.weight"] + 0.1}
    with pytest.raises(ValueError, match="tuned on another image model: 1 tensors"):
        import_(other, tiny.unet)
    with pytest.raises(ValueError, match="1 tensors that this image model has no place for"):
        import_(state | {"down_blocks.0.conv_temporal.down.weight": torch.zeros(1)}, tiny.unet)
    cut = {
        n: v for n, v in state.items() if "up_blocks.3.attentions.2.transformer_blocks.0.attn_temp" not in n
    }
    with pytest.raises(ValueError, match="lacks 5 tensors of Tune-A-Video"):
        import_(cut, tiny.unet)
