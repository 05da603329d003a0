"""MasaCtrl, vid2vid-zero and Video-P2P on a tiny real UNet: no-op cases, counts, and what each mistake
says."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor

from vgen.attention.edits import CopySelf
from vgen.attention.keys import FrameKeys
from vgen.attention.masks import MaskSpec
from vgen.attention.mutual import Mutual
from vgen.attention.sites import AttentionKind, AttentionWhere, attention_sites
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Stage
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullEmbeddings, NullText
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.solvers import Spacing, timesteps
from vgen.diffusion.step_window import StepWindow, Unit
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods._edit_session import PAIR, Acting, EditSession
from vgen.methods._editing import Edited, start_noise
from vgen.methods._sampling import SamplingOverrides
from vgen.methods._wishes import Wish
from vgen.methods.masactrl import MasaCtrl, SourceFrame
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.methods.tune_a_video import TuneAVideo
from vgen.methods.vid2vid_zero import Vid2VidZero
from vgen.methods.video_p2p import VideoP2P

SOURCE, TARGET = "a large red circle on a black background", "a large blue circle on a black background"
FRAMES, STEPS, CPU = 3, 4, torch.device("cpu")
ALWAYS, NEVER = StepWindow(), StepWindow(end=0.0)
EARLY = StepWindow(start=1, end=1000, unit=Unit.STEP)
ONE, NONE = NullText(inner_steps=1), NullText(inner_steps=0)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.TOYBOX, seed=0).freeze()


HELD: list = []


def session(
    model: ImageModel, recipe, real: bool = True, target: str = TARGET, frames: int = FRAMES, **sampling
) -> EditSession:
    """Layers over frames are not silent, so that what is done to them shows."""
    while HELD:
        HELD.pop().eject()
    video_model = assemble(recipe, model)
    video_model.unet.requires_grad_(False)
    HELD.append(video_model.unet)
    draws = torch.Generator().manual_seed(0)
    for p in video_model.unet.inserted.parameters():
        p.copy_(0.2 * torch.randn(p.shape, generator=draws))
    own = SamplingOverrides(**{"num_steps": STEPS, **sampling}).over(recipe.sampling())
    return EditSession(
        video_model=video_model,
        wish=Wish(source=SOURCE, target=target),
        noise=start_noise(model, frames, (8, 8), 0, CPU),
        sampling=own,
        latents=0.5 * start_noise(model, frames, (8, 8), 1, CPU) if real else None,
    )


def edited(model: ImageModel, recipe, blend: list[str] | None = None, **how) -> Edited:
    own = session(model, recipe, **how)
    own.wish = replace(own.wish, blend=blend or [])
    return recipe.edit(own)


def meta() -> ImageModel:
    """Stable Diffusion 1.5's UNet, for nothing."""
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    with torch.device("meta"):
        return ImageModel(
            unet=blank_unet(Blank.SD15), vae=None, text_encoders=[], tokenizer=None, scheduler_config=config
        )


# -- all three ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spacing", [Spacing.LEADING, Spacing.TRAILING], ids=lambda s: s.value)
def test_a_run_heeds_its_spacing_forth_and_back(model: ImageModel, spacing: Spacing) -> None:
    own = session(model, Vid2VidZero(), frames=1, spacing=spacing)
    seen: list[int] = []
    enter = own.video_model.enter

    def watched(moment: Moment | None) -> None:
        if moment is not None:
            seen.append(moment.t)
        enter(moment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(own.video_model), "enter", lambda _, moment: watched(moment))
        Vid2VidZero(null_text=ONE).edit(own)
    grid = timesteps(own.video_model.schedule, STEPS, own.sampling.solver, spacing)
    assert seen[:STEPS] == grid[::-1]
    assert seen[-STEPS:] == grid
    assert set(seen) == set(grid)


# -- MasaCtrl ----------------------------------------------------------------------------------------------
def test_mutual_attention_with_equal_prompts_gives_the_source(model: ImageModel) -> None:
    recipe = MasaCtrl(mutual=Mutual(window=EARLY))
    for union in (False, True):
        mutual = replace(recipe.mutual, union=union)
        done = edited(model, replace(recipe, mutual=mutual), real=False, target=SOURCE)
        torch.testing.assert_close(done.latents, done.reconstruction, atol=1e-4, rtol=1e-3)


def test_beyond_the_last_step_mutual_attention_is_a_plain_draw(model: ImageModel) -> None:
    own = session(model, MasaCtrl(), real=False)
    scale, pair, alone = Cfg(scale=own.sampling.guidance), own.encoded(SOURCE, TARGET), own.encoded(TARGET)
    plain = own.sample(own.noise, lambda _: alone, scale)

    def drawn(start: int) -> Tensor:
        mutual = Mutual(window=replace(EARLY, start=start))
        edits = mutual.edits(own.control.sites.values(), own.size)
        return own.sample(own.noise, lambda _: pair, scale, branches=PAIR, acting=Acting(edits=edits))

    never, acts = drawn(STEPS), drawn(1)
    torch.testing.assert_close(never[1:], plain, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(acts[1:], plain, atol=1e-3)
    torch.testing.assert_close(acts[:1], never[:1])  # the source is never changed


def test_the_union_is_another_edit(model: ImageModel) -> None:
    one, both = (
        edited(model, MasaCtrl(mutual=Mutual(window=EARLY, union=u)), real=False).latents
        for u in (False, True)
    )
    assert not torch.allclose(one, both, atol=1e-3)


def test_masks_of_every_cell_are_no_masks(model: ImageModel) -> None:
    def drawn(threshold: float, *blend: str) -> Tensor:
        mutual = Mutual(window=EARLY, threshold=threshold)
        return edited(model, MasaCtrl(mutual=mutual), list(blend), real=False).latents

    plain = drawn(0.0)
    torch.testing.assert_close(drawn(0.0, "circle"), plain, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(drawn(0.5, "circle"), plain, atol=1e-3)


def test_the_masked_variant_says_the_source_prompt(model: ImageModel) -> None:
    """A clip is inverted with the empty prompt, but where words of the source are looked for."""
    torch.testing.assert_close(
        edited(model, MasaCtrl(mutual=Mutual(window=EARLY, threshold=0.0)), ["circle"]).latents,
        edited(model, MasaCtrl(mutual=Mutual(window=EARLY), inversion_prompt=SOURCE)).latents,
        atol=1e-3,
        rtol=1e-3,
    )
    own = session(model, MasaCtrl())
    assert not torch.allclose(own.invert("").start, own.invert(SOURCE).start)


def test_a_frame_reads_its_own_source_or_the_first(model: ImageModel) -> None:
    def of(source: SourceFrame, frames: int) -> Tensor:
        recipe = MasaCtrl(mutual=Mutual(window=EARLY), source_frame=source)
        return edited(model, recipe, real=False, frames=frames).latents

    own, first = SourceFrame.OWN, SourceFrame.FIRST
    torch.testing.assert_close(of(first, 1), of(own, 1))
    assert not torch.allclose(of(first, FRAMES), of(own, FRAMES), atol=1e-3)


def test_masactrl_edits_frame_by_frame(model: ImageModel) -> None:
    recipe = MasaCtrl(mutual=Mutual(window=EARLY))
    own = session(model, recipe)
    torch.testing.assert_close(
        recipe.edit(own).latents[:, 1:2], recipe.edit(own.frame(1)).latents, atol=1e-4, rtol=1e-3
    )


def test_followed_the_source_is_one_step_from_its_path(model: ImageModel) -> None:
    mutual = Mutual(window=EARLY)
    own = session(model, MasaCtrl())
    trajectory, given = own.invert(""), own.encoded("")
    last = own.sample(trajectory.states[-2], lambda _: given, Cfg(scale=1.0), first_step=STEPS - 1)
    done = edited(model, MasaCtrl(mutual=mutual, follow=True))
    torch.testing.assert_close(done.reconstruction, last, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(edited(model, MasaCtrl(mutual=mutual)).reconstruction, last, atol=1e-4)


@pytest.mark.parametrize(
    ("mutual", "blend", "message"),
    [
        (Mutual(window=EARLY, where=AttentionWhere(levels=[7])), [], "mutual.where matches none of the"),
        (Mutual(window=replace(EARLY, start=STEPS)), [], "mutual.window holds none of the 4 steps"),
        (
            Mutual(window=EARLY),
            ["red"],
            "masks of mutual attention need words of both prompts, got none for target",
        ),
        (Mutual(window=EARLY, union=True), ["circle"], "union leaves no side to a mask"),
        (
            Mutual(window=ALWAYS, where=AttentionWhere(stages=[Stage.DOWN])),
            ["circle"],
            "asks for a mask before any cross-attention",
        ),
    ],
)
def test_what_mutual_attention_cannot_do_speaks(
    model: ImageModel, mutual: Mutual, blend: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        edited(model, MasaCtrl(mutual=mutual), blend, real=False, frames=1)


# -- vid2vid-zero ------------------------------------------------------------------------------------------
def test_three_attentions_are_dense() -> None:
    where = Vid2VidZero().dense
    own = [s for s in attention_sites(meta().unet) if s.kind is AttentionKind.SELF and where(s)]
    blocks = [site.path.partition(".transformer_blocks")[0] for site in own]
    assert blocks == ["down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0"]


def test_one_frame_of_vid2vid_zero_is_an_image_edit(model: ImageModel) -> None:
    """Where it inverts with the source's prompt and uses all null embeddings, it is Prompt-to-Prompt without
    self-attention."""
    mine = Vid2VidZero(null_text=ONE, null_window=ALWAYS, inversion_prompt=SOURCE)
    image = PromptToPrompt(self_attention=NEVER, null_text=ONE)
    torch.testing.assert_close(
        edited(model, mine, frames=1).latents, edited(model, image, frames=1).latents, atol=1e-3, rtol=1e-2
    )


def test_a_still_clip_is_edited_as_one_frame(model: ImageModel) -> None:
    recipe = Vid2VidZero(null_text=NONE)
    own = session(model, recipe)
    assert own.latents is not None
    own.latents = own.latents[:, :1].expand_as(own.latents)
    done = recipe.edit(own).latents
    torch.testing.assert_close(done[:, 1:2], done[:, :1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(done[:, :1], recipe.edit(own.frame(0)).latents, atol=1e-3, rtol=1e-2)


def test_frames_are_read_in_the_edit_alone(model: ImageModel) -> None:
    seen: dict[str, set[int]] = {}
    recipe = Vid2VidZero(null_text=ONE)
    own = session(model, recipe, num_steps=2)
    own.progress = lambda phase, done, total: seen.setdefault(phase, set()).add(len(own.control.keys))
    recipe.edit(own)
    assert seen == {"invert": {0}, "null text": {0}, "edit": {2}}


def test_without_frames_to_read_and_pooled_norms_frames_are_apart(model: ImageModel) -> None:
    recipe = Vid2VidZero(null_text=NONE, image_norm_scope=NormScope.FRAME)
    own = session(model, recipe)
    pooled = session(model, Vid2VidZero()).invert("", keys=()).start
    own = session(model, recipe)
    whole = own.invert("", keys=()).start
    alone = own.frame(1).invert("", keys=()).start
    torch.testing.assert_close(whole[:, 1:2], alone, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(pooled, whole, atol=1e-2)


def test_null_embeddings_act_in_their_window_and_in_both_rows(model: ImageModel) -> None:
    recipe = Vid2VidZero()
    own = session(model, recipe)
    plain = own.encoded(SOURCE, TARGET)["text"].null["text"]
    nulls = NullEmbeddings(tuple(plain[:1] + 1 + i for i in range(STEPS)), ())
    given = recipe._encoded(own, nulls)
    for step in range(STEPS):
        said = given(step)["text"].null["text"].expand_as(plain)
        assert torch.equal(said, (nulls.values[step] if step >= STEPS / 2 else plain).expand_as(plain))
    never, none = (
        edited(model, Vid2VidZero(null_text=n, null_window=w)).latents
        for n, w in ((ONE, NEVER), (NONE, ALWAYS))
    )
    torch.testing.assert_close(never, none)


def test_a_refinement_has_a_window_of_its_own(model: ImageModel) -> None:
    recipe = Vid2VidZero(null_text=NONE)
    new = "a large red circle moves slowly on a black background"
    own = session(model, recipe, target=new, num_steps=10)
    lines = own.words.previews(
        recipe.cross_window(own.words.replaces), recipe.amplifies_in(own.words.replaces), False
    )
    assert "cross-attention of the source in steps 1-4 of 10" in lines
    wide = edited(model, replace(recipe, cross=ALWAYS), target=new).latents
    torch.testing.assert_close(edited(model, recipe, target=new).latents, wide)
    assert not torch.allclose(
        edited(model, replace(recipe, cross_refined=ALWAYS), target=new).latents, wide, atol=1e-3
    )


# -- Video-P2P ---------------------------------------------------------------------------------------------
def test_video_p2p_learns_what_tune_a_video_learns() -> None:
    """74,354,880 parameters on Stable Diffusion 1.5, of the same names."""

    def learns(recipe) -> dict[str, int]:
        unet = assemble(recipe, meta()).unet
        found = {f"unet.{name}": p.numel() for name, p in unet.named_parameters()}
        return {n: c for n, c in found.items() if any(fnmatchcase(n, pattern) for pattern in recipe.learns())}

    mine = learns(VideoP2P())
    assert mine == learns(TuneAVideo())
    assert sum(mine.values()) == 74_354_880


@pytest.mark.parametrize("nulls", [NONE, ONE], ids=["fast", "null-text"])
def test_video_p2p_with_equal_prompts_gives_the_source(model: ImageModel, nulls: NullText) -> None:
    """Without guidance; with it the rows are decoupled by their nulls."""
    recipe = VideoP2P(cross=ALWAYS, temporal_maps=ALWAYS, null_text=nulls)
    done = edited(model, recipe, target=SOURCE, guidance=1.0)
    torch.testing.assert_close(done.latents, done.reconstruction, atol=1e-4, rtol=1e-3)
    done = edited(model, recipe, target=SOURCE)
    assert not torch.allclose(done.latents, done.reconstruction, atol=1e-3)


def test_nulls_are_the_source_row_s_alone(model: ImageModel) -> None:
    recipe = VideoP2P()
    own = session(model, recipe)
    plain = own.encoded(SOURCE)["text"].null["text"]
    nulls = NullEmbeddings(tuple(plain + 1 + i for i in range(STEPS)), ())
    given = recipe._encoded(own, nulls)
    for step in range(STEPS):
        said = given(step)["text"].null["text"]
        assert torch.equal(said[:1], nulls.values[step])
        assert torch.equal(said[1:], plain)


def test_fast_the_source_row_is_not_guided(model: ImageModel) -> None:
    recipe = VideoP2P(null_text=NONE)
    own = session(model, recipe)
    plain = own.reconstruct(own.invert(SOURCE).start, SOURCE)
    torch.testing.assert_close(recipe.edit(own).reconstruction, plain, atol=1e-3, rtol=1e-2)


def test_temporal_maps_are_copied_inside_their_window(model: ImageModel) -> None:
    recipe = VideoP2P(null_text=NONE)
    own = session(model, recipe, num_steps=5)
    copies = next(edit for edit in recipe._edits(own) if isinstance(edit, CopySelf))
    rows = Rows(("", "text"), PAIR)
    wanted = {
        (site.kind, step)
        for site in own.control.sites.values()
        for step in range(5)
        if copies.wants(site, Moment(step, 5, 501, Direction.DENOISE, rows, range(FRAMES)))
    }
    assert wanted == {(AttentionKind.TEMPORAL, 0), (AttentionKind.TEMPORAL, 1)}  # int(.5 * 5)


def test_temporal_maps_matter_to_more_than_one_frame(model: ImageModel) -> None:
    def of(window: StepWindow, frames: int) -> Tensor:
        return edited(model, VideoP2P(null_text=NONE, temporal_maps=window), frames=frames).latents

    torch.testing.assert_close(of(ALWAYS, 1), of(NEVER, 1), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(of(ALWAYS, FRAMES), of(NEVER, FRAMES), atol=1e-4)


def test_cross_attention_has_one_step_of_a_table_of_one_more(model: ImageModel) -> None:
    """int(share * (steps + 1)): .75 of 3 steps are 3, not 2."""
    recipe = VideoP2P(null_text=NONE, cross=StepWindow(end=0.75))
    whole = edited(model, replace(recipe, cross=ALWAYS), num_steps=3).latents
    torch.testing.assert_close(edited(model, recipe, num_steps=3).latents, whole)


def test_a_closed_blend_gives_the_source_and_an_open_one_nothing(model: ImageModel) -> None:
    def of(threshold: float, *blend: str) -> Edited:
        recipe = VideoP2P(null_text=NONE, blend=MaskSpec(threshold=threshold), blend_window=ALWAYS)
        return edited(model, recipe, list(blend))

    closed = of(2.0, "circle")
    assert torch.equal(closed.latents, closed.reconstruction)
    assert closed.mask is not None
    assert closed.mask.shape == (FRAMES, 8, 8)
    torch.testing.assert_close(of(-1.0, "circle").latents, of(-1.0).latents, atol=1e-3, rtol=1e-3)


def test_every_frame_has_a_mask_of_its_own(model: ImageModel) -> None:
    """Divided by its own maximum: each has a cell inside, however low its heat."""
    recipe = VideoP2P(null_text=NONE, blend=MaskSpec(threshold=0.99, grow=1), blend_window=ALWAYS)
    mask = edited(model, recipe, ["circle"]).mask
    assert mask is not None
    assert mask.flatten(1).any(1).all()
    assert not mask.flatten(1).all(1).any()


def test_every_frame_reads_the_first_while_inverting_too(model: ImageModel) -> None:
    own = session(model, VideoP2P())
    own.progress = lambda phase, done, total: seen.update({phase: own.control.keys})
    seen: dict[str, tuple[FrameKeys, ...]] = {}
    VideoP2P(null_text=ONE).edit(own)
    assert set(seen) == {"invert", "null text", "edit"}
    assert all([key.frames for key in keys] == [VideoP2P().frames] for keys in seen.values())


# -- words nobody heeds ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recipe", "wish", "message"),
    [
        (MasaCtrl(), {"cross_replace_steps": {"blue": ALWAYS}}, "maps alone and can't heed cross_replace"),
        (Vid2VidZero(), {"blend": ["circle"]}, "this method can't heed blend"),
        (VideoP2P(), {"blend": ["jeep"]}, "blend word 'jeep' is neither"),
        (VideoP2P(cross=NEVER), {"amplify": {"blue": 2.0}}, "amplify acts in the steps of cross-attention"),
    ],
    ids=["masactrl", "vid2vid_zero", "nowhere", "never"],
)
def test_words_nobody_heeds_are_refused(model: ImageModel, recipe, wish: dict, message: str) -> None:
    own = session(model, recipe)
    own.wish = Wish(source=SOURCE, target=TARGET, **wish)
    windows = recipe.cross_window(own.words.replaces), recipe.amplifies_in(own.words.replaces)
    with pytest.raises(ValueError, match=message):
        own.words.previews(*windows, recipe.blends())
