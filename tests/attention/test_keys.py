"""Laws of cross-frame attention: whose keys are read changes nothing on a still clip, and folding is
repeating."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from vgen.attention.control import Reference
from vgen.attention.keys import Frame, FrameKeys, gathered
from vgen.attention.processor import VideoAttention, control_of, install, route
from vgen.attention.sites import AttentionKind, AttentionWhere, attention_sites
from vgen.backbones.blank import Blank, blank_unet
from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Stage
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.step_window import StepWindow, Unit

FRAMES = 4
DENOISING = Moment(0, 10, 900, Direction.DENOISE, Rows())


@pytest.fixture
def unet(tiny: ImageModel) -> VideoUNet:
    video = VideoUNet(tiny.to("cpu", torch.float64).unet)
    route(video)
    return video


def clip(still: bool = False, rows: int = 1) -> torch.Tensor:
    x = torch.randn(rows, FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x[:, :1].expand_as(x).contiguous() if still else x


@torch.no_grad()
def run(
    unet: VideoUNet, model: ImageModel, x: torch.Tensor, *keys: FrameKeys, moment: Moment | None = None
) -> torch.Tensor:
    context = model.encode_text(["a red circle"] * len(x))
    control = control_of(unet)
    with control.acting(keys=keys):
        control.enter(moment)
        return unet(x, torch.tensor(300), Conditioning(context))


EVERY = [
    FrameKeys(frames=[Frame.FIRST, Frame.PREVIOUS]),
    FrameKeys(frames=[Frame.MIDDLE]),
    FrameKeys(frames=[Frame.ALL]),
    FrameKeys(frames=[Frame.SELF, Frame.LAST]),
    FrameKeys(frames=[Frame.NEXT]),
    FrameKeys(frames=[], key_frames=[1, 3]),
]


@pytest.mark.parametrize(
    "keys", EVERY, ids=lambda k: "+".join(f.value for f in k.frames) or str(k.key_frames)
)
def test_on_a_still_clip_every_policy_is_plain_self_attention(
    unet: VideoUNet, tiny: ImageModel, keys: FrameKeys
) -> None:
    x = clip(still=True)
    torch.testing.assert_close(run(unet, tiny, x, keys), run(unet, tiny, x))


@pytest.mark.parametrize(
    "keys", EVERY, ids=lambda k: "+".join(f.value for f in k.frames) or str(k.key_frames)
)
def test_on_a_moving_clip_it_is_not(unet: VideoUNet, tiny: ImageModel, keys: FrameKeys) -> None:
    assert not torch.allclose(run(unet, tiny, clip(), keys), run(unet, tiny, clip()))


def test_one_frame_is_always_plain(unet: VideoUNet, tiny: ImageModel) -> None:
    x = clip()[:, :1]
    torch.testing.assert_close(
        run(unet, tiny, x, FrameKeys(frames=[Frame.FIRST, Frame.PREVIOUS])), run(unet, tiny, x)
    )


def test_the_order_of_sources_does_not_matter(unet: VideoUNet, tiny: ImageModel) -> None:
    one, other = (FrameKeys(frames=f) for f in ([Frame.FIRST, Frame.PREVIOUS], [Frame.PREVIOUS, Frame.FIRST]))
    torch.testing.assert_close(run(unet, tiny, clip(), one), run(unet, tiny, clip(), other))


def test_all_by_folding_queries_is_all_by_repeating_keys(unet: VideoUNet, tiny: ImageModel) -> None:
    repeated = FrameKeys(frames=[], key_frames=list(range(FRAMES)))
    torch.testing.assert_close(
        run(unet, tiny, clip(), FrameKeys(frames=[Frame.ALL])), run(unet, tiny, clip(), repeated)
    )


def test_all_never_copies_keys() -> None:
    k = torch.randn(2, FRAMES, 6, 8)
    assert gathered(k, FrameKeys(frames=[Frame.ALL]), None).data_ptr() == k.data_ptr()


def test_frames_agree_the_more_they_read_the_same() -> None:
    """The agreed part of the published ablation, where it can be derived: a still scene asks with the same
    queries in every frame, keys and values are boiling. What all frames read alike makes them alike; each its
    own leaves the noise; first and previous lies between."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 16, 8, generator=generator, dtype=torch.float64) for n in (1, 64, 64))

    def disagreement(*frames: Frame) -> float:
        read = [gathered(x, FrameKeys(frames=list(frames)), None).expand(1, 64, -1, -1) for x in (k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(q.expand(1, 64, 16, 8), *read)
        return (out[:, 1:] - out[:, :-1]).square().mean().item()

    alone, between = disagreement(Frame.SELF), disagreement(Frame.FIRST, Frame.PREVIOUS)
    for shared in (Frame.FIRST, Frame.MIDDLE, Frame.LAST, Frame.ALL):
        assert disagreement(shared) < 1e-24 < between < 0.5 * alone
    assert between < disagreement(Frame.PREVIOUS), "the first frame steadies what the previous one brings"
    assert disagreement(Frame.SELF, Frame.MIDDLE) < 0.5 * alone


def test_indices_are_those_of_the_papers() -> None:
    table = FrameKeys(frames=[Frame.FIRST, Frame.MIDDLE, Frame.LAST, Frame.PREVIOUS, Frame.NEXT]).indices(4)
    assert table.tolist() == [[0, 1, 3, 0, 1], [0, 1, 3, 0, 2], [0, 1, 3, 1, 3], [0, 1, 3, 2, 3]]


def test_a_target_row_reads_the_source_row(unet: VideoUNet, tiny: ImageModel) -> None:
    """MasaCtrl: source rows never change, and a target that equals its source doesn't either."""
    rows = Rows(("text",), ("source", "target"))
    moment = Moment(5, 10, 400, Direction.DENOISE, rows)
    keys = FrameKeys(rows_from="source", window=StepWindow(start=4, end=10, unit=Unit.STEP))
    x = clip(rows=2)
    plain, mutual = run(unet, tiny, x, moment=moment), run(unet, tiny, x, keys, moment=moment)
    torch.testing.assert_close(mutual[0], plain[0])
    assert not torch.allclose(mutual[1], plain[1])
    same = x[:1].expand_as(x)
    torch.testing.assert_close(
        run(unet, tiny, same, keys, moment=moment), run(unet, tiny, same, moment=moment)
    )
    beyond = FrameKeys(rows_from="source", where=AttentionWhere(from_ordinal=16))
    assert torch.equal(run(unet, tiny, x, beyond, moment=moment), plain), "there is no seventeenth layer"
    early = Moment(3, 10, 600, Direction.DENOISE, rows)
    assert torch.equal(run(unet, tiny, x, keys, moment=early), run(unet, tiny, x, moment=early)), (
        "before its window it does nothing"
    )
    never = FrameKeys(rows_from="source", window=StepWindow(start=10, end=99, unit=Unit.STEP))
    for step in range(10):
        at = Moment(step, 10, 900 - 90 * step, Direction.DENOISE, rows)
        assert torch.equal(run(unet, tiny, x, never, moment=at), run(unet, tiny, x, moment=at)), (
            "it would start after the last step"
        )


@pytest.mark.parametrize(
    "keys",
    [
        FrameKeys(rows_from="source"),
        FrameKeys(rows_from="source", beside_own=True),
        FrameKeys(rows_from="source", where=AttentionWhere(stages=[Stage.UP])),
        FrameKeys(rows_from="source", where=AttentionWhere(from_level=1)),
        FrameKeys(frames=[Frame.FIRST, Frame.PREVIOUS], rows_from="source"),
        FrameKeys(frames=[Frame.ALL], rows_from="source", beside_own=True),
    ],
    ids=["all", "union", "up", "coarse", "first+previous", "union of all frames"],
)
@pytest.mark.parametrize("guidance", [("text",), ("null", "text")], ids=len)
def test_no_setting_of_mutual_attention_changes_the_source(
    unet: VideoUNet, tiny: ImageModel, keys: FrameKeys, guidance: tuple[str, ...]
) -> None:
    """The source is denoised as if the target were not beside it; its frames may read each other, then they
    do so without a target too."""
    rows = Rows(guidance, ("source", "target"))
    moment, alone = (
        Moment(5, 10, 400, Direction.DENOISE, rows),
        Moment(5, 10, 400, Direction.DENOISE, Rows(guidance, ("source",))),
    )
    x, own = clip(rows=2).repeat(len(guidance), 1, 1, 1, 1), FrameKeys(frames=keys.frames)
    both = run(unet, tiny, x, keys, moment=moment)
    torch.testing.assert_close(both[::2], run(unet, tiny, x[::2], own, moment=alone))
    assert not torch.allclose(both[1::2], run(unet, tiny, x, own, moment=moment)[1::2])


def test_the_union_of_a_row_and_its_twin_is_plain(unet: VideoUNet, tiny: ImageModel) -> None:
    """Every key twice is every key once; and a target that differs reads both, which neither of the two alone
    gives."""
    moment = Moment(5, 10, 400, Direction.DENOISE, Rows(("text",), ("source", "target")))
    union = FrameKeys(rows_from="source", beside_own=True)
    x = clip(rows=2)
    same = x[:1].expand_as(x)
    torch.testing.assert_close(
        run(unet, tiny, same, union, moment=moment), run(unet, tiny, same, moment=moment)
    )
    target = run(unet, tiny, x, union, moment=moment)[1]
    for other in ([FrameKeys(rows_from="source")], []):
        assert not torch.allclose(target, run(unet, tiny, x, *other, moment=moment)[1])


def test_each_layer_may_have_a_list_of_its_own(unet: VideoUNet, tiny: ImageModel) -> None:
    """vid2vid-zero's: all frames in some layers, first and previous in the rest. The first rule that accepts
    a site is its own."""
    control = control_of(unet)
    in_some, elsewhere = (
        FrameKeys(frames=[Frame.ALL], where=AttentionWhere(stages=[Stage.UP])),
        FrameKeys(frames=[Frame.FIRST]),
    )
    with control.acting(keys=[in_some, elsewhere]):
        control.enter(DENOISING)
        read = {path: plan.keys for path, plan in control.plans.items()}
    asked = {path: site.stage for path, site in control.sites.items() if site.kind is AttentionKind.SELF}
    assert read == {path: in_some if stage is Stage.UP else elsewhere for path, stage in asked.items()}
    found = run(unet, tiny, clip(), in_some, elsewhere, moment=DENOISING)
    for alone in (in_some, elsewhere):
        assert not torch.allclose(found, run(unet, tiny, clip(), alone, moment=DENOISING))


def test_keys_may_act_in_one_direction_alone(unet: VideoUNet, tiny: ImageModel) -> None:
    keys = FrameKeys(frames=[Frame.FIRST], directions=[Direction.DENOISE])
    inverting = Moment(0, 10, 900, Direction.INVERT, Rows())
    assert torch.equal(run(unet, tiny, clip(), keys, moment=inverting), run(unet, tiny, clip()))
    assert not torch.allclose(run(unet, tiny, clip(), keys, moment=DENOISING), run(unet, tiny, clip()))


def test_keys_of_another_run_join(unet: VideoUNet, tiny: ImageModel) -> None:
    class Silent(Reference):
        def keys_values(self, site, moment):
            channels = unet.image_unet.get_submodule(site.path).to_q.out_features
            return torch.zeros(1, 3, channels, dtype=torch.float64), torch.ones(
                1, 3, channels, dtype=torch.float64
            )

    control = control_of(unet)
    control.references["other"] = Silent()
    with_it = run(unet, tiny, clip(), FrameKeys(frames=[Frame.SELF], references=["other"]), moment=DENOISING)
    assert not torch.allclose(with_it, run(unet, tiny, clip()))
    control.references.clear()
    with pytest.raises(ValueError, match="reference 'other', but the run has none"):
        run(unet, tiny, clip(), FrameKeys(frames=[Frame.SELF], references=["other"]), moment=DENOISING)


def test_a_copy_and_a_pickle_carry_their_own_control(unet: VideoUNet, tiny: ImageModel) -> None:
    control = control_of(unet)
    control.keys = (FrameKeys(frames=[Frame.FIRST]),)
    control.enter(None)
    x, context = clip(), tiny.encode_text(["a red circle"])
    with torch.no_grad():
        before = unet(x, torch.tensor(300), Conditioning(context))
        twin = pickle.loads(pickle.dumps(copy.deepcopy(unet)))
        torch.testing.assert_close(twin(x, torch.tensor(300), Conditioning(context)), before)
        control_of(twin).keys = ()
        control_of(twin).enter(None)
        assert not torch.allclose(twin(x, torch.tensor(300), Conditioning(context)), before)
        torch.testing.assert_close(unet(x, torch.tensor(300), Conditioning(context)), before)
    assert control_of(twin) is not control


def test_nothing_depends_on_how_often_it_is_called(unet: VideoUNet, tiny: ImageModel) -> None:
    keys = FrameKeys(frames=[Frame.FIRST, Frame.PREVIOUS])
    first = run(unet, tiny, clip(), keys)
    run(unet, tiny, clip()[:, :2], keys)
    assert torch.equal(run(unet, tiny, clip(), keys), first)


def test_the_site_table_of_stable_diffusion() -> None:
    """The contract with diffusers: if an upgrade moves or renames an attention, this is the test that says
    so."""
    with torch.device("meta"):
        sites = attention_sites(blank_unet(Blank.SD15))
    for kind in (AttentionKind.SELF, AttentionKind.CROSS):
        mine = [s for s in sites if s.kind is kind]
        assert [s.ordinal for s in mine] == list(range(16))
        assert [s.place for s in mine] == [*range(6), 0, *range(9)]
        stages = [s.stage for s in mine]
        assert (stages.count(Stage.DOWN), stages.count(Stage.MID), stages.count(Stage.UP)) == (6, 1, 9)
        assert [s.level for s in mine] == [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]
        assert [s.channels for s in mine] == [
            320,
            320,
            640,
            640,
            1280,
            1280,
            1280,
            1280,
            1280,
            1280,
            640,
            640,
            640,
            320,
            320,
            320,
        ]
    mutual = [s for s in sites if AttentionWhere(kinds=[AttentionKind.SELF], from_ordinal=10)(s)]
    assert {s.level for s in mutual} == {0, 1}
    assert all(s.stage is Stage.UP for s in mutual), "MasaCtrl's layers 10 to 15"


def test_a_control_net_has_addresses_too() -> None:
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(blank_unet(Blank.SD15_NARROW))
    control = install(net, ForwardContext(1))
    assert len(control.sites) == 14
    assert all(isinstance(p, VideoAttention) for p in net.attn_processors.values())


def test_a_compiled_fast_path_has_no_graph_break(unet: VideoUNet, tiny: ImageModel) -> None:
    x, context = clip(), tiny.encode_text(["a red circle"])
    with torch.no_grad():
        expected = unet(x, torch.tensor(300), Conditioning(context))
        compiled = torch.compile(unet, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, torch.tensor(300), Conditioning(context)), expected)


@pytest.mark.slow
def test_compiled_once_for_all_steps_of_a_recipes_own_frames(unet: VideoUNet, tiny: ImageModel) -> None:
    """First and previous frame, as while sampling with Tune-A-Video: a new moment is no new graph."""
    control, x, context = control_of(unet), clip(), tiny.encode_text(["a red circle"])
    keys = (FrameKeys(frames=[Frame.FIRST, Frame.PREVIOUS]),)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad(), control.acting(keys=keys):
        compiled = torch.compile(unet, backend="eager", fullgraph=True)
        for step in range(3):
            control.enter(Moment(step, 10, 900 - 100 * step, Direction.DENOISE, Rows()))
            t = torch.tensor(900 - 100 * step)
            torch.testing.assert_close(
                compiled(x, t, Conditioning(context)), unet(x, t, Conditioning(context))
            )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_a_compiled_unet_may_still_be_copied_and_edited(unet: VideoUNet, tiny: ImageModel) -> None:
    """What is compiled is the fast path; with an edit that needs maps the same UNet runs uncompiled."""
    x, context = clip(), tiny.encode_text(["a red circle"])
    with torch.no_grad():
        compiled = torch.compile(unet, backend="eager")
        before = compiled(x, torch.tensor(300), Conditioning(context))
        twin = copy.deepcopy(unet)
        control_of(twin).keys = (FrameKeys(frames=[Frame.FIRST]),)
        control_of(twin).enter(None)
        assert not torch.allclose(twin(x, torch.tensor(300), Conditioning(context)), before)
        torch.testing.assert_close(compiled(x, torch.tensor(300), Conditioning(context)), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrameKeys(frames=[]), "name no source"),
        (lambda: FrameKeys(beside_own=True), "needs the branch; give rows_from=source"),
        (lambda: FrameKeys(frames=[Frame.ALL, Frame.FIRST]), "already holds every frame"),
        (lambda: FrameKeys(frames=[], key_frames=[4]).indices(4), r"must lie in 0\.\.3"),
        (lambda: StepWindow(start=0.8, end=0.2), "must run forward"),
        (lambda: Rows(("null", "text"), ("source", "target")).split(torch.zeros(3)), "4 rows are needed"),
        (lambda: Rows().branch("source"), "no branch 'source'"),
    ],
)
def test_mistakes_speak(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_windows_in_three_units() -> None:
    assert list(StepWindow(start=0.0, end=0.8).steps(50)) == list(range(40))
    assert list(StepWindow(start=4, end=50, unit=Unit.STEP).steps(50)) == list(range(4, 50))
    assert list(StepWindow(start=20, end=18, unit=Unit.REMAINING).steps(50)) == [30, 31]
