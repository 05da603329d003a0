"""Fusions of key frames: outside of their windows nothing happens, and each gives back what it is about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vgen.diffusion.fusion import PixelFusion, Samples, ShapeFusion, StyleFusion, faithful, flat_places
from vgen.diffusion.schedule import Schedule
from vgen.diffusion.solvers import Solver, StepHooks, levels, solve, timesteps
from vgen.diffusion.step_window import Ends, StepWindow, Unit

STEPS = 20
ALWAYS, NEVER = StepWindow(), StepWindow(end=0.0)


def latent(seed: int) -> Tensor:
    return torch.randn(1, 1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)).double()


# -- windows -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("start", "end", "ends", "steps", "found"),
    [
        (0, 0.1, Ends.BOTH, 20, [0, 1, 2]),
        (0.8, 1, Ends.BOTH, 20, [16, 17, 18, 19]),
        (0.5, 0.8, Ends.NEITHER, 20, [11, 12, 13, 14, 15]),
        (0.5, 0.8, Ends.FIRST, 20, [10, 11, 12, 13, 14, 15]),
        (0, 0.1, Ends.BOTH, 15, [0, 1]),
        (0.5, 0.8, Ends.NEITHER, 15, [8, 9, 10, 11]),
        (0.5, 0.5, Ends.NEITHER, 20, []),
        (1, 1, Ends.BOTH, 20, []),
    ],
)
def test_the_ends_of_a_window(start: float, end: float, ends: Ends, steps: int, found: list[int]) -> None:
    """The released comparisons: ``>=`` and ``<=`` for shapes and style, ``>`` and ``<`` for pixels."""
    assert list(StepWindow(start=start, end=end, ends=ends).steps(steps)) == found


def test_ends_are_those_of_fractions() -> None:
    with pytest.raises(ValueError, match="ends=both is meant for a window of fractions, got one in steps"):
        StepWindow(start=1, end=3, unit=Unit.STEP, ends=Ends.BOTH)


# -- style and shapes --------------------------------------------------------------------------------------
def test_style_has_the_statistics_of_the_first_key() -> None:
    first, x0 = Samples({3: 2 + 3 * latent(0)}), latent(1)
    style = StyleFusion(first=first, window=ALWAYS, num_steps=STEPS)
    found = style(3, x0)
    torch.testing.assert_close(found.mean((-2, -1)), first.kept[3].mean((-2, -1)))
    wanted = first.kept[3].flatten(-2).std(-1)  # multiplied by the unbiased deviation
    torch.testing.assert_close(found.flatten(-2).std(-1, correction=0), wanted, atol=1e-4, rtol=1e-4)
    own = StyleFusion(first=Samples({0: x0}), window=ALWAYS, num_steps=STEPS)(0, x0)
    torch.testing.assert_close(own, x0, atol=1e-2, rtol=1e-2)  # but for n / (n - 1)
    assert StyleFusion(first=first, window=NEVER, num_steps=STEPS)(3, x0) is x0


def test_shapes_are_the_first_keys_where_it_saw_them() -> None:
    first, x0 = Samples({1: latent(0)}), latent(1)
    seen = torch.zeros(1, 1, 1, 16, 16).double()
    seen[..., :8] = 1
    shapes = ShapeFusion(first=first, carried=lambda x: x.flip(-1), seen=seen, window=ALWAYS, num_steps=STEPS)
    found = shapes(1, x0)
    assert torch.equal(found[..., :8], first.kept[1].flip(-1)[..., :8])
    assert torch.equal(found[..., 8:], x0[..., 8:])
    never = ShapeFusion(first=first, carried=lambda x: x, seen=seen, window=NEVER, num_steps=STEPS)
    assert never(1, x0) is x0


# -- pixels ------------------------------------------------------------------------------------------------
def fusion(weight: float, inner: float, flat: float, window: StepWindow = ALWAYS) -> PixelFusion:
    grid = levels(Schedule(), timesteps(Schedule(), STEPS, Solver.DDIM))
    whole = torch.ones(1, 1, 1, 16, 16).double()
    return PixelFusion(
        composite=latent(5),
        weight=weight * whole,
        flat=flat * whole,
        inner=inner,
        levels=grid,
        noise=lambda step: latent(100 + step),
        window=window,
        num_steps=STEPS,
    )


def drawn(one: PixelFusion) -> Tensor:
    """By a model that always predicts the same sample and the noise that follows."""
    sample = latent(9)

    def ask(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        alpha, sigma = Schedule().alpha_sigma(torch.tensor([t]), x)
        return sample, (x - alpha * sample) / sigma

    hooks = StepHooks(before=(one.before,), on_sample=(one.on_sample,))
    return solve(ask, latent(2), Schedule(), STEPS, hooks=hooks)


def test_without_weight_or_outside_of_its_window_nothing_is_fused() -> None:
    torch.testing.assert_close(fusion(0, 1, 1).before(3, latent(2)), latent(2))
    never = fusion(0.5, 0.9, 1, NEVER)
    assert never.before(3, x := latent(2)) is x


def test_all_of_it_is_the_composite_noised() -> None:
    one = fusion(1, 0, 1)
    level = one.levels[7]
    wanted = level.alpha * latent(5) + level.sigma * latent(107)
    torch.testing.assert_close(one.before(7, latent(2)), wanted)


def test_the_noise_that_is_lost_is_made_up_for() -> None:
    """Half of a latent, mixed with half of another of fresh noise, has less noise than its level; the louder
    direction gives it back. At the level of step 5, of deviation .94, in many cells."""
    sample, ahead = latent(9), 5
    loud, still = fusion(0.5, 1, 1), fusion(0.5, 1, 0)
    level = loud.levels[ahead]
    for one, near in ((loud, True), (still, False)):
        one.composite = sample
        one.on_sample(ahead - 1, sample)
        x = level.alpha * sample + level.sigma * latent(3)
        noise = one.before(ahead, x) - level.alpha * sample
        assert (abs(noise.std().item() / level.sigma - 1) < 0.06) is near


def test_a_run_with_the_sample_as_composite_ends_in_it() -> None:
    one = fusion(0.5, 0.9, 1)
    one.composite = latent(9)
    torch.testing.assert_close(drawn(one), latent(9))


def test_flat_places_are_those_without_an_edge() -> None:
    mask = torch.zeros(1, 1, 6, 6)
    assert (flat_places(mask) == 1).all()
    mask[..., 3:] = 1
    assert flat_places(mask)[0, 0, 0].tolist() == [1, 1, 0, 0, 1, 1]


# -- fidelity ----------------------------------------------------------------------------------------------
def halved(pixels: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pixels, 4)


def grown(latents: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(latents, scale_factor=4.0)


def test_a_perfect_codec_needs_no_correction() -> None:
    pixels = grown(torch.rand(1, 3, 4, 4))
    torch.testing.assert_close(faithful(pixels, halved, grown), halved(pixels))


def test_what_a_round_loses_is_added_but_where_that_is_worse() -> None:
    pixels = grown(torch.rand(1, 3, 8, 8) * 0.4)
    found = faithful(pixels, lambda x: 0.9 * halved(x), grown)
    torch.testing.assert_close(found, (0.9 + 0.09) * halved(pixels))
    loud = pixels + 9  # a correction of .1 is far from enough
    torch.testing.assert_close(faithful(loud, lambda x: 0.9 * halved(x - 9), grown), 0.9 * halved(pixels))
