"""Inserted attention over frames is recorded and edited like the image model's own, and left alone by whoever
does not name it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vgen.attention.control import Edit, MapEdit, Maps, OutputEdit, QkSwap, Recorder
from vgen.attention.edits import CopySelf, Recorded, Sibling
from vgen.attention.processor import control_of, route
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.attention.store import AttentionStore, Kept, Payload, Place, StoreSpec, stored_bytes
from vgen.attention.temporal import route_inserted, temporal_sites
from vgen.backbones.blank import Blank, blank
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.frame_attention import FrameAttending
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Stage
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.step_window import StepWindow
from vgen.methods import Recipe, assemble
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.tune_a_video import TuneAVideo

FRAMES, SIDE = 3, 8
PAIR, ONE = Rows(("text",), ("source", "target")), Rows(("text",), ("target",))
TEMPORAL = AttentionWhere(kinds=[AttentionKind.TEMPORAL])
ALWAYS = StepWindow()


@pytest.fixture(scope="module", params=[TuneAVideo, AnimateDiff], ids=["tune-a-video", "animatediff"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return request.param()


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.SD15_NARROW, seed=0).freeze().to("cpu", torch.float64)


@pytest.fixture
def unet(model: ImageModel, recipe: Recipe) -> VideoUNet:
    torch.manual_seed(1)
    video = assemble(recipe, model).unet.double().requires_grad_(False)
    for layer in video.inserted.values():
        for p in layer.silent_outputs():
            torch.nn.init.normal_(p, std=0.3)
    yield video
    video.eject()


def moment(rows: Rows = PAIR, direction: Direction = Direction.DENOISE) -> Moment:
    return Moment(0, 10, 300, direction, rows)


def clip(rows: Rows = PAIR) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, FRAMES, 4, SIDE, SIDE, generator=generator, dtype=torch.float64)[
        -len(rows.branches) :
    ]


@torch.no_grad()
def run(
    unet: VideoUNet,
    model: ImageModel,
    *edits: Edit,
    at: Moment | None = None,
    recorders: tuple[Recorder, ...] = (),
    x: Tensor | None = None,
) -> Tensor:
    at = at or moment()
    x = clip(at.rows) if x is None else x
    control = control_of(unet)
    with control.acting(edits=edits, recorders=recorders):
        control.enter(at)
        return unet(x, torch.tensor(at.t), Conditioning(model.encode_text(["a red circle"] * len(x))))


class Look(MapEdit):
    """Keeps the maps of temporal attention and changes nothing."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def wants(self, site: AttentionSite, at: Moment) -> bool:
        return site.kind is AttentionKind.TEMPORAL

    def __call__(self, maps: Maps) -> Tensor:
        whole = (maps.frames.start, maps.heads.start) == (0, 0)
        if whole:
            self.seen[maps.site.path] = maps.values
        return maps.values


class CopyMaps(Look):
    """The dense way: the target's maps are overwritten."""

    def __call__(self, maps: Maps) -> Tensor:
        changed = maps.values.clone()
        changed[:, 1] = changed[:, 0]
        return changed


class Hand(OutputEdit):
    def __init__(self, source: bool) -> None:
        self.source = source
        self.seen: list[Tensor] = []

    def wants(self, site: AttentionSite, at: Moment) -> bool:
        return site.kind is AttentionKind.TEMPORAL

    def __call__(self, site: AttentionSite, at: Moment, out: Tensor) -> Tensor:
        self.seen.append(at.rows.of_branch(out, "source") if self.source else out)
        return self.seen[-1]


def copied(source: object = None, **how: object) -> CopySelf:
    return CopySelf(source=source or Sibling(), window=ALWAYS, kind=AttentionKind.TEMPORAL, **how)


def test_every_site_has_an_address(unet: VideoUNet, recipe: Recipe) -> None:
    found = temporal_sites(unet)
    control = control_of(unet)
    assert len(found) == (16 if isinstance(recipe, TuneAVideo) else 40)
    assert [site.ordinal for site in found] == list(range(len(found)))
    assert [site for site in control.sites.values() if site.kind is AttentionKind.TEMPORAL] == found
    for site in found:
        module = unet.get_submodule(site.path)
        assert (site.heads, site.channels) == (module.heads, module.to_q.in_features)
    stages = [site.stage for site in found]
    assert stages == sorted(stages, key=[Stage.DOWN, Stage.MID, Stage.UP].index)
    levels = [site.level for site in found if site.stage is Stage.UP]
    assert levels == sorted(levels, reverse=True)
    before = dict(control.sites)
    route_inserted(unet, control)
    assert list(control.sites) == list(before), "routing again changes nothing"


def test_who_does_not_name_it_leaves_it_alone(unet: VideoUNet, model: ImageModel) -> None:
    site = temporal_sites(unet)[0]
    assert not AttentionWhere()(site)
    assert not AttentionWhere(stages=[site.stage])(site)
    assert TEMPORAL(site)
    store = AttentionStore(StoreSpec(max_queries=16))
    run(unet, model, at=moment(ONE), recorders=(store,))
    assert not store.holds(site, moment(ONE))


def test_the_slow_path_is_the_fast_path(unet: VideoUNet, model: ImageModel) -> None:
    """In chunks of any size; each map is one of frames by frames at a position."""
    plain, control = run(unet, model), control_of(unet)
    for control.chunk_bytes in (1, 3000, 2**30):
        look = Look()
        torch.testing.assert_close(run(unet, model, look), plain)
    for site in temporal_sites(unet):
        positions = (SIDE >> site.level) ** 2
        assert look.seen[site.path].shape == (1, 2, positions, site.heads, FRAMES, FRAMES)


def test_an_identity_of_outputs_changes_nothing_bitwise(unet: VideoUNet, model: ImageModel) -> None:
    assert torch.equal(run(unet, model, Hand(source=False)), run(unet, model))
    routed = Hand(source=True)
    assert not torch.allclose(run(unet, model, routed)[1], run(unet, model)[1])
    assert all(torch.equal(out[0], out[1]) for out in routed.seen)


def test_a_copy_has_the_maps_of_the_source(unet: VideoUNet, model: ImageModel) -> None:
    """Queries and keys of the source give what overwriting maps gives."""
    out, plain = run(unet, model, copied()), run(unet, model)
    torch.testing.assert_close(out, run(unet, model, CopyMaps()))
    torch.testing.assert_close(out[0], plain[0])
    assert not torch.allclose(out[1], plain[1])
    resting = moment(direction=Direction.INVERT)
    assert torch.equal(run(unet, model, copied(), at=resting), run(unet, model, at=resting))
    torch.testing.assert_close(run(unet, model, copied(max_queries=1)), _at_one_position(unet, model))


def _at_one_position(unet: VideoUNet, model: ImageModel) -> Tensor:
    """The dense way where a frame is one position, the coarsest level of this latent."""

    class Coarsest(CopyMaps):
        def wants(self, site: AttentionSite, at: Moment) -> bool:
            return super().wants(site, at) and (SIDE >> site.level) == 1

    return run(unet, model, Coarsest())


def test_inside_a_mask_the_target_keeps_its_own(unet: VideoUNet, model: ImageModel) -> None:
    def masked(value: bool) -> Tensor:
        mask = torch.full((FRAMES, SIDE, SIDE), value)
        return run(
            unet,
            model,
            copied(
                mask=lambda moment, cells: F.adaptive_max_pool2d(mask[:, None].float(), cells)[:, 0] > 0,
                size=(SIDE, SIDE),
            ),
        )

    torch.testing.assert_close(masked(True), run(unet, model))
    torch.testing.assert_close(masked(False), run(unet, model, copied()))


@pytest.mark.parametrize("place", [Place.CPU, Place.DISK], ids=lambda place: place.value)
def test_a_recorded_run_is_a_sibling(
    unet: VideoUNet, model: ImageModel, place: Place, tmp_path: Path
) -> None:
    spec = StoreSpec(place=place, kept=Kept.FP32, folder=str(tmp_path), where=TEMPORAL)
    qk, maps = (AttentionStore(spec, payload) for payload in (Payload.QK, Payload.MAPS))
    look = Look()
    before = clip()[:1]
    run(unet, model, look, at=moment(ONE), recorders=(qk, maps), x=before)
    found = temporal_sites(unet)
    for site in found:
        whole = qk.maps(site, moment(ONE), slice(None), slice(None))
        torch.testing.assert_close(whole, look.seen[site.path][0, 0].float(), atol=1e-5, rtol=1e-4)
        part = maps.maps(site, moment(ONE), slice(0, 1), slice(1, 2))
        torch.testing.assert_close(part, whole[:1, 1:2], atol=1e-5, rtol=1e-4)
    for store in (qk, maps):
        assert store.nbytes == stored_bytes(found, (SIDE, SIDE), FRAMES, 1, 77, spec, store.payload)
    alone = run(unet, model, copied(Recorded(qk)), at=moment(ONE))
    torch.testing.assert_close(alone[0], run(unet, model, copied())[1], atol=1e-4, rtol=1e-3)


def test_copies_and_pickles_have_a_control_of_their_own(unet: VideoUNet, model: ImageModel) -> None:
    twin = pickle.loads(pickle.dumps(copy.deepcopy(unet)))
    site = temporal_sites(twin)[0]
    routed = twin.get_submodule(site.path).router
    assert routed.control is control_of(twin)
    assert routed.control is not control_of(unet)
    torch.testing.assert_close(run(twin, model, copied()), run(unet, model, copied()))
    with torch.no_grad():
        twin.get_submodule(site.path).to_v.weight.zero_()
    assert not torch.allclose(run(twin, model, copied()), run(unet, model, copied()))


def test_ejecting_leaves_no_trace(model: ImageModel, recipe: Recipe) -> None:
    plain = VideoUNet(model.unet)
    route(plain)
    before = run(plain, model)
    plain.eject()
    video = assemble(recipe, model).unet.double()
    run(video, model, copied())
    layers = list(video.inserted.values())
    video.eject()
    after = VideoUNet(model.unet)
    control = route(after)
    assert torch.equal(run(after, model), before)
    assert not temporal_sites(after)
    assert all(site.kind is not AttentionKind.TEMPORAL for site in control.sites.values())
    inner = [module for layer in layers for module in layer.modules() if isinstance(module, FrameAttending)]
    assert inner
    assert not any(module.router.acts for module in inner), "what was taken out attends plainly"
    after.eject()


@pytest.mark.slow
def test_the_fast_path_compiles_without_a_break(unet: VideoUNet, model: ImageModel) -> None:
    x, t = clip(), torch.tensor(300)
    given = Conditioning(model.encode_text(["a red circle"] * 2))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        compiled = torch.compile(unet, backend="eager", fullgraph=True)
        for at in (None, moment()):
            control_of(unet).enter(at)
            torch.testing.assert_close(compiled(x, t, given), unet(x, t, given))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_batch_of_other_rows_speaks(unet: VideoUNet, model: ImageModel) -> None:
    five = Rows(("text",), ("a", "b", "c", "d", "e"))

    class Nowhere(QkSwap):
        def wants(self, site: AttentionSite, at: Moment) -> bool:
            return site.kind is AttentionKind.TEMPORAL

        def __call__(self, *_: object) -> None:
            return None

    assert torch.equal(run(unet, model, Nowhere()), run(unet, model))
    with pytest.raises(ValueError, match=r"positions at inserted\..* are not those of 5 rows"):
        run(unet, model, Nowhere(), at=moment(five), x=clip())
