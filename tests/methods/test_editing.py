"""The three editing methods on a tiny real UNet: no-op cases, counts, and what each mistake says."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import torch

from vgen.attention.control import Recorder
from vgen.attention.edits import Amplify, CopySelf, Recorded, Sibling, SwapCross
from vgen.attention.keys import Frame
from vgen.attention.masks import MaskSpec
from vgen.attention.sites import attention_sites
from vgen.attention.store import AttentionStore, Kept, Payload, Place, StoreSpec, always, stored_bytes
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.diffusion.frames import Sliding
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullText
from vgen.diffusion.moment import Direction
from vgen.diffusion.solvers import Solver, solve
from vgen.diffusion.step_window import StepWindow
from vgen.layers.norm import NormScope
from vgen.methods import assemble
from vgen.methods._edit_session import PAIR, Acting, EditSession, speaking
from vgen.methods._editing import start_noise
from vgen.methods._sampling import SamplingOverrides
from vgen.methods._video_model import Encodings
from vgen.methods._wishes import Wish
from vgen.methods.fatezero import FateZero
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.methods.tune_a_video import TuneAVideo

SOURCE, TARGET = "a large red circle on a black background", "a large blue circle on a black background"
FRAMES, STEPS = 3, 6
ALWAYS, NEVER = StepWindow(), StepWindow(end=0.0)
EXACT = StoreSpec(kept=Kept.FP32)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.TOYBOX, seed=0).freeze()


HELD: list = []


def session(
    model: ImageModel,
    recipe,
    source: str = SOURCE,
    target: str = TARGET,
    real: bool = True,
    steps: int = STEPS,
    guidance: float | None = None,
    **wish,
) -> EditSession:
    while HELD:
        HELD.pop().eject()
    video_model = assemble(recipe, model)
    video_model.unet.requires_grad_(False)
    HELD.append(video_model.unet)
    noise = start_noise(model, FRAMES, (8, 8), 0, torch.device("cpu"))
    latents = 0.5 * start_noise(model, FRAMES, (8, 8), 1, torch.device("cpu")) if real else None
    return EditSession(
        video_model=video_model,
        wish=Wish(source=source, target=target, **wish),
        noise=noise,
        sampling=SamplingOverrides(num_steps=steps, guidance=guidance).over(recipe.sampling()),
        latents=latents,
    )


def test_one_shot_tuning_learns_the_published_number_of_parameters() -> None:
    """74,354,880 on Stable Diffusion 1.5: queries of both attentions, and the temporal attentions without
    their norms."""
    with torch.device("meta"):
        model = ImageModel(
            unet=blank_unet(Blank.SD15),
            vae=None,
            text_encoders=[],
            tokenizer=None,
            scheduler_config={"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        )
        unet = assemble(TuneAVideo(), model).unet
    learns = [
        p
        for n, p in unet.named_parameters()
        if any(fnmatchcase(f"unet.{n}", pattern) for pattern in TuneAVideo().learns())
    ]
    assert sum(p.numel() for p in learns) == 74_354_880
    assert len(unet.inserted) == 16


@torch.no_grad()
def test_an_inflated_net_is_the_image_net_where_it_should_be(model: ImageModel) -> None:
    """Born silent. One frame: always. More: with self-attention alone and norms of a frame. Norms pooled over
    the clip, as released, are another net from the first step on."""
    x, t, context = (
        start_noise(model, FRAMES, (8, 8), 2, torch.device("cpu")),
        torch.tensor([300]),
        model.encode_text([SOURCE]),
    )

    def inflated(num_frames: int, scope: NormScope, frames: list[Frame]) -> torch.Tensor:
        return session(model, TuneAVideo(image_norm_scope=scope, frames=frames)).video_model.unet(
            x[:, :num_frames], t, Conditioning(context)
        )[:, 0]

    both, own = [Frame.FIRST, Frame.PREVIOUS], [Frame.SELF]
    one = inflated(1, NormScope.CLIP, both)
    session(model, PromptToPrompt())  # the plain net
    HELD.pop().eject()
    alone = model.unet(x[:, 0], t, context.tokens).sample
    torch.testing.assert_close(one, alone, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(inflated(FRAMES, NormScope.FRAME, own), alone, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(inflated(FRAMES, NormScope.CLIP, own), alone, atol=1e-2)


def test_prompt_to_prompt_with_equal_prompts_gives_the_source(model: ImageModel) -> None:
    recipe = PromptToPrompt(cross=ALWAYS, self_attention=ALWAYS)
    done = recipe.edit(session(model, recipe, target=SOURCE, real=False))
    torch.testing.assert_close(done.latents, done.reconstruction)


def test_prompt_to_prompt_edits_frame_by_frame(model: ImageModel) -> None:
    recipe = PromptToPrompt(null_text=NullText(inner_steps=0))
    whole = session(model, recipe)
    done = recipe.edit(whole)
    torch.testing.assert_close(done.latents[:, 1:2], recipe.edit(whole.frame(1)).latents)
    assert not torch.allclose(done.latents, done.reconstruction)


def test_a_closed_blend_mask_gives_the_source_exactly(model: ImageModel) -> None:
    def edited(threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
        recipe = PromptToPrompt(blend=MaskSpec(threshold=threshold), blend_window=ALWAYS)
        done = recipe.edit(session(model, recipe, real=False, blend=["circle"]))
        return done.latents, done.reconstruction

    closed, source = edited(2.0)
    assert torch.equal(closed, source)
    recipe = PromptToPrompt()
    torch.testing.assert_close(edited(-1.0)[0], recipe.edit(session(model, recipe, real=False)).latents)


def test_null_text_brings_the_source_row_closer(model: ImageModel) -> None:
    def error(inner_steps: int, guidance: float = 7.5) -> float:
        settings = NullText(inner_steps=inner_steps, epsilon=0.0, epsilon_per_step=0.0)
        recipe = PromptToPrompt(null_text=settings)
        own = session(model, recipe, guidance=guidance).frame(0)
        nulls = recipe._nulls(own, own.invert(SOURCE)) if inner_steps else None
        given = recipe._encoded(own, nulls)
        out = own.sample(own.invert(SOURCE).start, given, Cfg(scale=guidance), branches=PAIR)
        return (out[0] - own.latents[0]).square().mean().item()

    assert error(5) < error(0)


def test_a_null_embedding_may_be_shared_by_all_frames(model: ImageModel) -> None:
    """Video-P2P's and vid2vid-zero's: asked of the whole clip, one embedding a step serves all frames, and
    brings them closer."""
    settings = NullText(inner_steps=5, epsilon=0.0, epsilon_per_step=0.0)
    recipe = PromptToPrompt(null_text=settings)
    own = session(model, recipe)
    trajectory = own.invert(SOURCE)
    nulls = recipe._nulls(own, trajectory)
    given = own.encoded(SOURCE)
    assert [value.shape for value in nulls.values] == [given["text"].null["text"].shape] * STEPS, (
        "one row, whatever the number of frames"
    )

    def back(values: tuple[torch.Tensor, ...] | None) -> float:
        def at(step: int) -> Encodings:
            return given if values is None else speaking(given, values[step])

        found = own.sample(trajectory.start, at, Cfg(scale=own.sampling.guidance))
        return (found - own.latents).square().mean().item()

    assert back(nulls.values) < back(None)


def test_without_guidance_null_text_has_nothing_to_do(model: ImageModel) -> None:
    """At scale 1 the prediction is the conditional one: no gradient reaches the null embedding, and it stays
    to the bit."""
    settings = NullText(inner_steps=3, epsilon=0.0, epsilon_per_step=0.0)

    def moved(guidance: float) -> float:
        recipe = PromptToPrompt(null_text=settings)
        own = session(model, recipe, steps=2, guidance=guidance).frame(0)
        nulls = recipe._nulls(own, own.invert(SOURCE))
        empty = own.encoded(SOURCE)["text"].null["text"]
        return max((value - empty).abs().max().item() for value in nulls.values)

    assert moved(1.0) == 0 < moved(4.0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", [Solver.DDIM, Solver.EULER, Solver.DPM_PP_2M], ids=lambda s: s.value)
def test_attention_control_knows_neither_solver_nor_prediction(
    model: ImageModel, prediction: str, solver: Solver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal prompts give the source, and a word's own factor does not, by whatever rule the steps are
    taken."""
    recipe = PromptToPrompt()
    monkeypatch.setattr(model, "scheduler_config", {**model.scheduler_config, "prediction_type": prediction})
    own = session(model, recipe, target=SOURCE, real=False)
    alignment = own.words.alignment()
    edits = [
        SwapCross(source=Sibling(), window=ALWAYS, alignment=alignment),
        CopySelf(source=Sibling(), window=ALWAYS),
    ]
    given = own.encoded(SOURCE, SOURCE)

    def drawn(*more: Amplify) -> torch.Tensor:
        ask = own.denoiser(lambda _: given, Cfg(scale=3.0), branches=PAIR, solver=solver)
        with own.control.acting(edits=[*edits, *more]):
            return solve(
                ask, own.noise.expand(2, *own.noise.shape[1:]), own.video_model.schedule, STEPS, solver
            )

    source, target = drawn()
    torch.testing.assert_close(target, source, atol=1e-3, rtol=1e-3)
    red = alignment.target.positions("red")[0]
    assert not torch.allclose(*drawn(Amplify(factors={red: 5.0}, window=ALWAYS)), atol=1e-2)
    assert own.video_model.prediction.value in (prediction, prediction.removesuffix("_prediction"))


def assert_no_worse_than_its_reconstruction(recipe: FateZero, own: EditSession) -> None:
    done = recipe.edit(own)
    error, plain = ((x - own.latents).square().mean() for x in (done.latents, done.reconstruction))
    assert error <= plain * 1.05


def test_fatezero_with_equal_prompts_is_no_worse_than_plain_inversion(model: ImageModel) -> None:
    """All maps are the inversion's own, so the way back is the way there."""
    recipe = FateZero(cross=ALWAYS, self_attention=ALWAYS, store=EXACT)
    own = session(model, recipe, target=SOURCE, guidance=1.0)
    assert_no_worse_than_its_reconstruction(recipe, own)


def test_inversion_may_be_guided(model: ImageModel) -> None:
    """With the empty prompt guidance is inert, whatever its scale; with another it is not."""
    own = session(model, FateZero())
    plain, inert = (own.invert("", guidance=g).start for g in (1.0, 7.5))
    torch.testing.assert_close(inert, plain, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(own.invert(SOURCE, guidance=2.0).start, own.invert(SOURCE).start)
    with pytest.raises(ValueError, match="one clip in one row, got a batch of 2; run it without guidance"):
        own.invert(SOURCE, [AttentionStore(EXACT)], guidance=2.0)


def test_what_was_recorded_at_a_timestep_is_read_at_it(model: ImageModel) -> None:
    """The inversion visits timesteps upwards, denoising downwards; the originals pair them by total - step -
    1."""

    class Clock(Recorder):
        def __init__(self) -> None:
            self.seen: dict[Direction, dict[int, int]] = {direction: {} for direction in Direction}

        def wants(self, site, moment) -> bool:
            self.seen[moment.direction][moment.step] = moment.t
            return False

        def record(self, site, moment, seen) -> None: ...

    own, clock = session(model, FateZero()), Clock()
    start = own.invert(SOURCE, [clock]).start
    given = own.encoded(SOURCE)
    ask = own.denoiser(lambda _: given, Cfg(scale=1.0))
    with own.control.acting(recorders=[clock]):
        solve(ask, start, own.video_model.schedule, STEPS)
    assert clock.seen[Direction.INVERT] == clock.seen[Direction.DENOISE]
    assert (
        list(clock.seen[Direction.INVERT])
        == list(reversed(clock.seen[Direction.DENOISE]))
        == list(reversed(range(STEPS)))
    )
    assert clock.seen[Direction.DENOISE][0] == max(clock.seen[Direction.DENOISE].values())


def test_fatezero_thresholds_are_its_two_extremes(model: ImageModel) -> None:
    def edited(window: StepWindow, blend: list[str], threshold: float = 0.3) -> torch.Tensor:
        recipe = FateZero(
            self_attention=window,
            mask=MaskSpec(threshold=threshold),
            store=EXACT,
            reconstruct=False,
        )
        return recipe.edit(session(model, recipe, blend=blend)).latents

    torch.testing.assert_close(edited(ALWAYS, ["circle"], 2.0), edited(ALWAYS, []))
    torch.testing.assert_close(edited(ALWAYS, ["circle"], -1.0), edited(NEVER, []))


@pytest.mark.parametrize("place", [Place.DISK, Place.DEVICE])
def test_where_the_store_lives_does_not_matter(model: ImageModel, place: Place, tmp_path) -> None:
    def edited(where: Place) -> torch.Tensor:
        recipe = FateZero(store=StoreSpec(place=where, folder=str(tmp_path)), reconstruct=False)
        return recipe.edit(session(model, recipe)).latents

    assert torch.equal(edited(place), edited(Place.CPU))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("blend", [[], ["circle"]], ids=["whole", "blended"])
@pytest.mark.parametrize(("cross", "own"), [(0.0, 0.5), (0.5, 0.0), (0.3, 1.0), (1.0, 1.0)])
def test_only_what_will_be_read_is_kept(
    model: ImageModel, cross: float, own: float, blend: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the windows of the edit; the edit is that of a store that holds everything, and the plan's
    arithmetic is what is kept."""
    recipe = FateZero(
        cross=StepWindow(end=cross),
        self_attention=StepWindow(end=own),
        store=EXACT,
        reconstruct=False,
    )
    done = recipe.edit(session(model, recipe, blend=blend))
    assert done.report["store_bytes"] == recipe.store_bytes(session(model, recipe, blend=blend))
    monkeypatch.setattr(FateZero, "_reads", lambda *_: always)
    everything = recipe.edit(session(model, recipe, blend=blend))
    assert torch.equal(done.latents, everything.latents)
    kept, whole = done.report["store_bytes"], everything.report["store_bytes"]
    all_read = own == 1 and (cross == 1 or blend)  # a mask at every step needs the words' maps of every step
    assert kept == whole if all_read else kept < whole


def test_fatezero_keeps_two_thirds_at_its_own_windows(model: ImageModel) -> None:
    """8 frames of 512 x 512 in 50 steps on Stable Diffusion 1.5, by arithmetic on shapes: 8.06e9 bytes, where
    every step is 12.08e9."""
    with torch.device("meta"):
        sites = attention_sites(blank_unet(Blank.SD15))
    reads = FateZero()._reads(session(model, FateZero(), steps=50))
    assert stored_bytes(sites, (64, 64), 8, 50, 77, StoreSpec(), Payload.QK, reads) == 8_062_412_800


@pytest.mark.parametrize("place", Place)
def test_asked_again_a_step_is_kept_once(model: ImageModel, place: Place, tmp_path) -> None:
    """Fixed-point steps ask the model several times at one timestep; what is kept is the last."""
    kept = []
    for again in (0, 2):
        recipe = FateZero(
            store=StoreSpec(place=place, folder=str(tmp_path)),
            fixed_point_steps=again,
            reconstruct=False,
        )
        kept.append(recipe.edit(in_windows_of_two(model, recipe, steps=2)).report["store_bytes"])
    assert kept[0] == kept[1] > 0


def test_fatezero_reads_either_list_of_frames(model: ImageModel) -> None:
    outs = []
    for frames in ([Frame.MIDDLE], [Frame.SELF, Frame.MIDDLE], []):
        recipe = FateZero(frames=frames, store=EXACT, reconstruct=False)
        outs.append(recipe.edit(session(model, recipe)).latents)
    assert not torch.allclose(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_tune_a_video_edits_what_it_inverted(model: ImageModel) -> None:
    recipe = TuneAVideo()
    own = session(model, recipe, guidance=1.5)
    done = recipe.edit(own)
    assert done.latents.shape == own.latents.shape
    assert own.control.keys[0].frames == [Frame.FIRST, Frame.PREVIOUS]


def test_amplifying_changes_the_edit_and_one_does_not(model: ImageModel) -> None:
    recipe = PromptToPrompt()
    plain = recipe.edit(session(model, recipe, real=False)).latents
    torch.testing.assert_close(
        recipe.edit(session(model, recipe, real=False, amplify={"blue": 1.0})).latents, plain
    )
    assert not torch.allclose(
        recipe.edit(session(model, recipe, real=False, amplify={"blue": 5.0})).latents, plain
    )


def test_amplifying_acts_in_the_window_of_cross_attention(model: ImageModel) -> None:
    """Outside of it the factor does nothing, as released; in all steps, as written, it does."""

    def edited(recipe: PromptToPrompt | FateZero, **wish) -> torch.Tensor:
        return recipe.edit(session(model, recipe, steps=2, **wish)).latents

    for how in (
        PromptToPrompt(cross=NEVER, null_text=NullText(inner_steps=0)),
        FateZero(cross=NEVER, store=EXACT, reconstruct=False),
    ):
        plain = edited(how)
        torch.testing.assert_close(edited(how, amplify={"blue": 5.0}), plain)
        everywhere = replace(how, amplify_in_all_steps=True)
        assert not torch.allclose(edited(everywhere, amplify={"blue": 5.0}), plain)
    with pytest.raises(ValueError, match="amplify acts in the steps of cross-attention, of which 'blue' has"):
        session(model, FateZero(), amplify={"blue": 5.0}).words.previews(NEVER, NEVER)


def test_self_maps_are_copied_as_far_as_either_notebook_does(model: ImageModel) -> None:
    for real, most in ((True, 1024), (False, 256)):
        recipe = PromptToPrompt()
        own = session(model, recipe, real=real)
        copied = [e.max_queries for e in recipe._edits(own, own.words.alignment()) if isinstance(e, CopySelf)]
        assert copied == [most]
        given = PromptToPrompt(self_max_queries=64)._edits(own, own.words.alignment())
        assert 64 in [e.max_queries for e in given if isinstance(e, CopySelf)]


def test_a_word_may_have_its_own_share_of_the_steps(model: ImageModel) -> None:
    """A word given the window that all have changes nothing; a window of its own is that of all words at the
    two extremes."""
    own = StepWindow(end=0.5)

    def edited(cross: StepWindow, **words: StepWindow) -> torch.Tensor:
        recipe = PromptToPrompt(cross=cross)
        return recipe.edit(session(model, recipe, real=False, cross_replace_steps=words)).latents

    plain = edited(own)
    torch.testing.assert_close(edited(own, blue=own), plain)
    assert not torch.allclose(edited(own, blue=ALWAYS), plain)
    assert not torch.allclose(edited(own, blue=ALWAYS), edited(own, circle=ALWAYS))


def test_a_new_word_has_no_attention_of_the_source(model: ImageModel) -> None:
    recipe = FateZero()
    wish = {"target": f"{SOURCE} at night", "cross_replace_steps": {"night": ALWAYS}}
    with pytest.raises(
        ValueError, match=r"gives 'night' the source's attention, but the source .* has no such word"
    ):
        recipe.edit(session(model, recipe, **wish))


WINDOWS = Sliding(num_frames=2, overlap=1)


def in_windows_of_two(model: ImageModel, recipe, **wish) -> EditSession:
    return replace(session(model, recipe, **wish), frames=WINDOWS)


def test_windows_do_not_matter_to_frames_that_see_none_but_themselves(model: ImageModel) -> None:
    """One latent for the whole clip: an average of equal predictions is the prediction. So no frame is lost,
    doubled or read from another window's store."""
    recipe = FateZero(frames=[], store=EXACT)
    whole, parts = (
        recipe.edit(session(model, recipe, blend=["circle"])),
        recipe.edit(in_windows_of_two(model, recipe, blend=["circle"])),
    )
    torch.testing.assert_close(parts.latents, whole.latents, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(parts.reconstruction, whole.reconstruction, atol=1e-4, rtol=1e-3)
    assert torch.equal(parts.mask, whole.mask)
    assert parts.report["store_bytes"] > whole.report["store_bytes"], (
        "frames that two windows see are kept twice"
    )


def test_windows_matter_to_frames_that_read_others(model: ImageModel) -> None:
    recipe = FateZero(store=EXACT, reconstruct=False)
    whole_latents = recipe.edit(session(model, recipe, steps=2)).latents
    parts = in_windows_of_two(model, recipe, steps=2)
    assert not torch.allclose(recipe.edit(parts).latents, whole_latents)


def test_in_windows_too_equal_prompts_give_the_source_back(model: ImageModel) -> None:
    recipe = FateZero(cross=ALWAYS, self_attention=ALWAYS, store=EXACT)
    own = in_windows_of_two(model, recipe, target=SOURCE, guidance=1.0)
    assert_no_worse_than_its_reconstruction(recipe, own)


def test_a_run_of_other_windows_finds_nothing_recorded(model: ImageModel) -> None:
    recipe = FateZero(store=EXACT)
    own, store = session(model, recipe, steps=2), AttentionStore(EXACT)
    own.invert(SOURCE, [store])
    own.frames = WINDOWS
    given = own.encoded(TARGET)
    edits = [CopySelf(source=Recorded(store), window=ALWAYS)]
    with pytest.raises(
        ValueError, match="for frames 0 to 1; the recording run must have the same steps and windows"
    ):
        own.sample(own.latents, lambda _: given, Cfg(), acting=Acting(edits=edits))


def test_after_an_edit_attention_is_as_before(model: ImageModel) -> None:
    recipe = FateZero(reconstruct=False)
    own = session(model, recipe, steps=2)
    recipe.edit(own)
    assert own.control.recorders == ()
    assert own.control.edits == ()
    assert own.control.moment is None


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"blend": ["jeep"]}, "blend word 'jeep' is neither in the source"),
        ({"amplify": {"jeep": 2.0}}, "word 'jeep' does not occur in the target prompt"),
    ],
)
def test_words_that_are_nowhere_speak(model: ImageModel, wish: dict, message: str) -> None:
    recipe = PromptToPrompt()
    with pytest.raises(ValueError, match=message):
        recipe.edit(session(model, recipe, real=False, **wish))


def test_a_second_method_does_not_run_on_the_layers_of_the_first(model: ImageModel) -> None:
    session(model, TuneAVideo())
    with pytest.raises(ValueError, match="still holds layers of another sidecar"):
        assemble(FateZero(), model)


def test_factors_are_checked() -> None:
    with pytest.raises(ValueError, match="amplify needs factors of 0 or more"):
        Wish(amplify={"red": -1.0})
