"""Mutual self-attention against a dense computation, and its no-op cases; references of several rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vgen.attention.control import Control, Edit, Plan, Seen
from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.maps import heads_of
from vgen.attention.masks import MaskSpec, grid, mask_of
from vgen.attention.mutual import Mutual, MutualSelf, StepHeat
from vgen.attention.planned import Kernel, attended
from vgen.attention.processor import control_of, route
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.attention.store import AttentionStore, Kept, Payload, StoreSpec, stored_bytes
from vgen.backbones.blank import Blank, blank
from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Stage
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.step_window import StepWindow

FRAMES, SIDE, HEADS, WIDTH = 3, 4, 2, 8
GUIDED = Rows(("null", "text"), ("source", "target"))
AT = Moment(5, 10, 300, Direction.DENOISE, GUIDED)
SITE = AttentionSite("here", AttentionKind.SELF, Stage.UP, 0, 12, WIDTH, HEADS)


def dense(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """``f n c`` over ``f s c``; ``allowed`` f s is added as released: the lowest number where it is false."""
    q, k, v = (heads_of(x, HEADS) for x in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None, None], torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
    return torch.stack([dense(*row) for row in zip(q, k, v, strict=True)])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def attend(edit: MutualSelf, keys: FrameKeys | None = None, budget: int = 2**20) -> tuple[Seen, Tensor]:
    q, k, v = (random(4, FRAMES, SIDE * SIDE, WIDTH + i)[..., :WIDTH] for i in range(3))
    control = Control(ForwardContext(num_frames=FRAMES, moment=AT), {SITE.path: SITE}, chunk_bytes=budget)
    plan = Plan.of(keys, (), [edit], SITE.path)
    seen = Seen(q, k, v, q)
    return seen, attended(control, SITE, plan, seen, Kernel(HEADS, (WIDTH // HEADS) ** -0.5, batch))


def mutual(**how: object) -> MutualSelf:
    return MutualSelf(window=StepWindow(), where=AttentionWhere(), size=(SIDE, SIDE), **how)


def masks(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.rand(FRAMES, SIDE, SIDE, generator=generator) > 0.5 for _ in range(2))
    return source, target


@pytest.mark.parametrize("budget", [1, 2**20])
def test_masked_is_foreground_and_background_composed(budget: int) -> None:
    """As released: two attentions, composed by the target's mask; source rows keep their own."""
    source, target = masks()
    seen, out = attend(mutual(masks=lambda _: (source, target)), budget=budget)
    for base in (0, 2):  # null and text
        q, k, v = seen.q[base + 1], seen.k[base], seen.v[base]
        front, back = (dense(q, k, v, side) for side in (source.flatten(1), ~source.flatten(1)))
        expected = torch.where(target.flatten(1)[..., None], front, back)
        torch.testing.assert_close(out[base + 1], expected)
        torch.testing.assert_close(out[base], dense(seen.q[base], k, v))


def test_masks_of_one_side_leave_mutual_attention() -> None:
    """Also where the target has a side that the source lacks: it reads all there is."""
    whole = torch.ones(FRAMES, SIDE, SIDE, dtype=torch.bool)
    _, plain = attend(mutual())
    for target in (whole, masks()[1]):
        torch.testing.assert_close(attend(mutual(masks=lambda _, t=target: (whole, t)))[1], plain)


@pytest.mark.parametrize("frames", [[Frame.FIRST, Frame.SELF], [Frame.ALL]], ids=["first+self", "all"])
def test_masks_follow_the_frames_that_are_read(frames: list[Frame]) -> None:
    source, target = masks()
    keys = FrameKeys(frames=frames)
    seen, out = attend(mutual(masks=lambda _: (source, target)), keys)
    table = [[0, f] if Frame.FIRST in frames else range(FRAMES) for f in range(FRAMES)]
    k, v = (torch.stack([x[2][list(read)].flatten(0, 1) for read in table]) for x in (seen.k, seen.v))
    side = torch.stack([source[list(read)].flatten() for read in table])
    front, back = (dense(seen.q[3], k, v, allowed) for allowed in (side, ~side))
    torch.testing.assert_close(out[3], torch.where(target.flatten(1)[..., None], front, back))


def test_the_union_reads_both() -> None:
    seen, out = attend(mutual(union=True))
    k, v = (torch.cat([x[2], x[3]], 1) for x in (seen.k, seen.v))
    torch.testing.assert_close(out[3], dense(seen.q[3], k, v))
    with pytest.raises(ValueError, match="union leaves no side to a mask"):
        mutual(union=True, masks=lambda _: masks())


# -- in a UNet -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.SD15_NARROW, seed=0).freeze().to("cpu", torch.float64)


@pytest.fixture
def unet(model: ImageModel) -> VideoUNet:
    video = VideoUNet(model.unet)
    route(video)
    return video


def clip(same: bool = False) -> Tensor:
    x = random(2, FRAMES, 4, 8, 8)
    return (x[:1].expand_as(x) if same else x).repeat(2, 1, 1, 1, 1)


@torch.no_grad()
def run(
    unet: VideoUNet,
    model: ImageModel,
    *edits: Edit,
    x: Tensor | None = None,
    target: str = "a blue circle",
    at: Moment = AT,
    **acting: object,
) -> Tensor:
    control = control_of(unet)
    with control.acting(edits=edits, **acting):
        control.enter(at)
        context = model.encode_text(["", "", "a red circle", target])
        return unet(clip() if x is None else x, torch.tensor(300), Conditioning(context))


TOKENS = {"source": [2, 3], "target": [3]}


def test_one_value_says_it(unet: VideoUNet, model: ImageModel) -> None:
    """Plain and union are those of frame keys; a threshold of 0 takes every cell and leaves plain."""
    where = AttentionWhere(from_ordinal=10)
    before = run(unet, model)
    for union in (False, True):
        keys = FrameKeys(rows_from="source", beside_own=union, where=where)
        plain = run(unet, model, keys=[keys])
        torch.testing.assert_close(
            run(unet, model, *Mutual(union=union).edits(control_of(unet).sites.values(), (8, 8))), plain
        )
    plain = run(unet, model, *Mutual().edits(control_of(unet).sites.values(), (8, 8)))
    everything = Mutual(threshold=0.0).edits(control_of(unet).sites.values(), (8, 8), TOKENS)
    torch.testing.assert_close(run(unet, model, *everything), plain)
    masked = run(unet, model, *Mutual(threshold=0.5).edits(control_of(unet).sites.values(), (8, 8), TOKENS))
    assert not torch.allclose(masked[3], plain[3])
    torch.testing.assert_close(masked[[0, 2]], before[[0, 2]])
    early = Moment(3, 10, 600, Direction.DENOISE, GUIDED)
    assert torch.equal(
        run(unet, model, *Mutual().edits(control_of(unet).sites.values(), (8, 8)), at=early),
        run(unet, model, at=early),
    )


def test_equal_rows_are_plain(unet: VideoUNet, model: ImageModel) -> None:
    x, how = clip(same=True), {"target": "a red circle"}
    plain = run(unet, model, x=x, **how)
    for edits in (
        Mutual().edits(control_of(unet).sites.values(), (8, 8)),
        Mutual(union=True).edits(control_of(unet).sites.values(), (8, 8)),
    ):
        torch.testing.assert_close(run(unet, model, *edits, x=x, **how), plain)


def test_masks_are_of_this_step_and_of_every_frame(unet: VideoUNet, model: ImageModel) -> None:
    """The same whatever the chunk and however often it is asked; scaled to 0..1 in each frame."""
    control, found = control_of(unet), []
    for control.chunk_bytes in (1, 2**30):
        heat = StepHeat(TOKENS, 1, (8, 8), 0.4)
        for _ in range(2):
            run(unet, model, heat)
            found.append(torch.stack(heat.masks(AT)))
    assert all(torch.equal(one, found[0]) for one in found)
    assert found[0].shape == (2, FRAMES, *grid(16, (8, 8)))
    share = found[0].flatten(2).double().mean(-1)
    assert (share > 0).all(), "the hottest cell of each frame is inside"
    assert (share < 1).all(), "the coldest is outside"
    with pytest.raises(ValueError, match="step 6 asks for a mask before any cross-attention of level 1"):
        heat.masks(Moment(6, 10, 200, Direction.DENOISE, GUIDED))


def test_mistakes_speak(unet: VideoUNet, model: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"needs a threshold from 0 to 1 .* got 1\.5 and 2"):
        Mutual(threshold=1.5)
    with pytest.raises(ValueError, match="need words of both prompts, got none for target"):
        Mutual().edits(control_of(unet).sites.values(), (8, 8), {"source": [1]})
    store = AttentionStore(StoreSpec(), Payload.KV, rows=[("text", "source")])
    run(unet, model, recorders=[store])
    control_of(unet).references["before"] = store
    big = MutualSelf(window=StepWindow(), where=AttentionWhere(), size=(8, 8), masks=lambda _: masks())
    with pytest.raises(ValueError, match=r"has a mask for 64 keys at .*; references have no mask"):
        run(unet, model, big, keys=[FrameKeys(references=["before"])])


def test_masks_of_words_are_of_each_frame_alone() -> None:
    """As Video-P2P blends: each frame is divided by its own maximum."""
    heat = random(FRAMES, 4, 4).abs() * torch.tensor([1.0, 10.0, 0.01])[:, None, None]
    whole = mask_of(heat, (8, 8), MaskSpec())
    for f in range(FRAMES):
        assert torch.equal(whole[f : f + 1], mask_of(heat[f : f + 1], (8, 8), MaskSpec()))
        assert whole[f].any()


# -- rows of a store -----------------------------------------------------------------------------------------
def test_rows_are_kept_by_name(unet: VideoUNet, model: ImageModel) -> None:
    every = [(guidance, branch) for guidance in GUIDED.guidance for branch in GUIDED.branches]
    settings = StoreSpec(kept=Kept.FP32)
    whole = AttentionStore(settings, rows=every)
    singles = [AttentionStore(settings, rows=[name]) for name in every]
    run(unet, model, recorders=[whole, *singles])
    sites = list(control_of(unet).sites.values())
    for site in sites:
        for row, single in enumerate(singles):
            for name, kept in single.get(site, AT).items():
                assert torch.equal(kept, whole.get_rows(site, AT)[name][row])
        assert torch.equal(whole.get(site, AT)["q"], singles[2].get(site, AT)["q"]), "the conditional row"
    assert whole.nbytes == stored_bytes(sites, (8, 8), FRAMES, 1, 77, settings, Payload.QK, num_rows=4)
    with pytest.raises(ValueError, match="no guidance row 'image' in this run; it has null, text"):
        run(unet, model, recorders=[AttentionStore(settings, rows=[("image", "source")])])


def test_each_row_reads_its_own_reference(unet: VideoUNet, model: ImageModel) -> None:
    """A guided clip that reads what was kept of itself reads all of its frames, in every row."""
    every = [(guidance, branch) for branch in GUIDED.branches for guidance in GUIDED.guidance]
    one = AttentionWhere(ordinals=[0])
    store = AttentionStore(StoreSpec(kept=Kept.FP32), Payload.KV, rows=every)
    run(unet, model, recorders=[store])
    control_of(unet).references["before"] = store
    found = run(unet, model, keys=[FrameKeys(frames=[], references=["before"], where=one)])
    expected = run(unet, model, keys=[FrameKeys(frames=[Frame.ALL], where=one)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    part = AttentionStore(StoreSpec(), Payload.KV, rows=every[:2])
    run(unet, model, recorders=[part])
    control_of(unet).references["before"] = part
    with pytest.raises(ValueError, match="kept no row null of target, text of target, but null of source"):
        run(unet, model, keys=[FrameKeys(frames=[], references=["before"], where=one)])
