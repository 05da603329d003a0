"""Edits of what a site hands on obey their no-op cases bitwise, and route rows at the sites they name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vgen.attention.control import Edit, KvSwap, MapEdit, Maps, OutputEdit, QkSwap
from vgen.attention.processor import control_of, route
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.backbones.blank import Blank, blank
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.moment import Direction, Moment, Rows

PAIR = Rows(("null", "text"), ("source", "target"))
AT = Moment(0, 10, 300, Direction.DENOISE, PAIR)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.SD15_NARROW, seed=0).freeze()


@pytest.fixture
def unet(model: ImageModel) -> VideoUNet:
    video = VideoUNet(model.unet)
    route(video)
    return video


def clip() -> Tensor:
    """Two branches, twice."""
    pair = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    return pair.repeat(2, 1, 1, 1, 1)


@torch.no_grad()
def run(unet: VideoUNet, model: ImageModel, *edits: Edit, at: Moment = AT) -> Tensor:
    control = control_of(unet)
    with control.acting(edits=edits):
        control.enter(at)
        context = model.encode_text(["", "", "a red circle", "a blue circle"])
        return unet(clip(), torch.tensor(300), Conditioning(context))


class Same(OutputEdit):
    """Changes nothing; keeps what it saw by site."""

    def __init__(self, where: AttentionWhere) -> None:
        self.where = where
        self.seen: dict[str, Tensor] = {}

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return self.where(site)

    def __call__(self, site: AttentionSite, moment: Moment, out: Tensor) -> Tensor:
        self.seen[site.path] = out
        return out


class SourceForAll(Same):
    """Every branch hands on what the source does."""

    def __call__(self, site: AttentionSite, moment: Moment, out: Tensor) -> Tensor:
        return super().__call__(site, moment, moment.rows.of_branch(out, "source"))


def test_an_identity_changes_nothing_bitwise(unet: VideoUNet, model: ImageModel) -> None:
    same = Same(AttentionWhere())
    assert torch.equal(run(unet, model, same), run(unet, model))
    assert len(same.seen) == 32
    for path, out in same.seen.items():
        assert out.shape[:2] == (4, 3)
        assert out.shape[3] == control_of(unet).sites[path].channels


def test_a_routed_row_is_the_source_at_its_sites(unet: VideoUNet, model: ImageModel) -> None:
    where = AttentionWhere(kinds=[AttentionKind.SELF], ordinals=[3, 12])
    routed = SourceForAll(where)
    out = run(unet, model, routed)
    assert sorted(control_of(unet).sites[path].ordinal for path in routed.seen) == [3, 12]
    for seen in routed.seen.values():
        assert torch.equal(seen[0], seen[1])
        assert torch.equal(seen[2], seen[3])
        assert not torch.equal(seen[0], seen[2])
    plain = run(unet, model)
    assert torch.equal(out[[0, 2]], plain[[0, 2]]), "source rows never change"
    assert not torch.allclose(out[3], plain[3])


def test_outputs_are_routed_together_with_maps(unet: VideoUNet, model: ImageModel) -> None:
    """A map edit at the same site acts first."""

    class Zero(MapEdit):
        def wants(self, site: AttentionSite, moment: Moment) -> bool:
            return site.kind is AttentionKind.SELF

        def __call__(self, maps: Maps) -> Tensor:
            return torch.zeros_like(maps.values)

    look = Same(AttentionWhere(kinds=[AttentionKind.SELF], ordinals=[0]))
    run(unet, model, Zero(), look)
    ((path, out),) = look.seen.items()
    bias = unet.image_unet.get_submodule(path).to_out[0].bias
    assert torch.equal(out, bias.expand_as(out))


def test_edits_of_the_same_maps_are_refused(unet: VideoUNet, model: ImageModel) -> None:
    class Everywhere:
        def wants(self, site: AttentionSite, moment: Moment) -> bool:
            return True

    class Keys(Everywhere, KvSwap):
        def __call__(self, *_: object) -> list:
            return []

    class Queries(Everywhere, QkSwap):
        def __call__(self, *_: object) -> None:
            return None

    assert torch.equal(run(unet, model, Keys()), run(unet, model))
    with pytest.raises(
        ValueError, match="rule out further edits of the same maps, got Keys, Queries at down_"
    ):
        run(unet, model, Keys(), Queries())
