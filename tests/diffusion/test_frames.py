"""Frame schedules and starts: every frame is predicted, and what one pass can hold is seen whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import (
    FrameSchedule,
    Fused,
    Hierarchical,
    Pass,
    Role,
    Sequential,
    Sliding,
    Whole,
    frames_of,
    in_passes,
)
from vgen.diffusion.start import Iid, Shared


def windows(num_frames: int, schedule: FrameSchedule) -> list:
    return [one.frames for one in schedule.passes(num_frames)]


def test_windows_cover_and_end_with_the_clip() -> None:
    for frames in (16, 17, 24, 40, 41):
        parts = windows(frames, Sliding(num_frames=16, overlap=4))
        assert {i for part in parts for i in part} == set(range(frames))
        assert all(len(part) == 16 for part in parts)
        assert parts[-1].stop == frames
    assert windows(8, Sliding()) == [range(8)]
    with pytest.raises(ValueError, match=r"window.overlap must lie in 0\.\.15"):
        Sliding(num_frames=16, overlap=16)
    with pytest.raises(
        ValueError, match=r"window.num_frames must not be negative, got -3; 0 takes the whole clip"
    ):
        Sliding(num_frames=-3)


def test_the_default_overlap_fits_short_windows() -> None:
    assert [Sliding(num_frames=n).overlap for n in (0, 1, 2, 3, 4, 5, 16)] == [4, 0, 1, 1, 2, 4, 4]
    assert windows(8, Sliding(num_frames=4)) == [range(4), range(2, 6), range(4, 8)]
    with pytest.raises(
        ValueError,
        match=r"window.overlap must lie in 0..3 for windows of 4 frames, got 5; give window.overlap=2",
    ):
        Sliding(num_frames=4, overlap=5)


def test_a_per_frame_model_is_the_same_in_windows() -> None:
    x = torch.randn(2, 21, 3, 2, 2)
    torch.testing.assert_close(
        in_passes(lambda part, _: 2 * part, x, Sliding(num_frames=8, overlap=3)), 2 * x
    )


@pytest.mark.parametrize(
    "schedule",
    [
        Whole(),
        Sliding(num_frames=5, overlap=2),
        Hierarchical(num_frames=2),
        Fused(windows=Sliding(num_frames=5, overlap=2)),
        Sequential(interval=3),
    ],
)
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 15, 16, 33])
def test_every_frame_is_predicted_from_its_own(schedule: FrameSchedule, frames: int) -> None:
    """Which frames a pass is told it sees are those that it is shown."""
    x = torch.randn(1, frames, 1, 1, 1)

    def predict(part: Tensor, one: Pass) -> Tensor:
        assert torch.equal(part, frames_of(x, one.frames))
        return 2 * part

    torch.testing.assert_close(in_passes(predict, x, schedule), 2 * x)
    assert schedule.at_once(frames) <= schedule.frames_seen(frames)


def test_the_hierarchy_of_the_released_code() -> None:
    """Keys and the frames between them, for lengths whose last key falls into step and for some where it does
    not."""
    found = {n: windows(n, Hierarchical(num_frames=1)) for n in (7, 15, 16, 33)}
    assert found[7] == [(0, 2, 4, 6), (0, 2, 1), (2, 4, 3), (4, 6, 5)]
    assert found[15][0] == (0, 2, 4, 6, 8, 10, 12, 14)
    assert found[16] == [
        (0, 3, 6, 9, 12, 15),
        *[(k, k + 3, k + 1, k + 2) for k in (0, 3, 6, 9, 12)],
    ]
    assert found[33][0] == (0, 4, 8, 12, 16, 20, 24, 28, 32)
    assert windows(6, Hierarchical(num_frames=1, clip=4)) == [(0, 3, 5), (0, 3, 1, 2), (3, 5, 4)]


def test_a_key_is_predicted_among_the_keys_alone() -> None:
    x = torch.zeros(1, 7, 1, 1, 1)

    def predict(part: Tensor, one: Pass) -> Tensor:
        return part + (1.0 if one.role is Role.KEYS else 5.0)

    told = in_passes(predict, x, Hierarchical(num_frames=3))[0, :, 0, 0, 0]
    assert told.tolist() == [1, 5, 1, 5, 1, 5, 1]


def test_what_is_seen_together_grows_with_the_square_root_of_the_length() -> None:
    schedule = Hierarchical(num_frames=16)
    assert [schedule.at_once(n) for n in (16, 100, 200, 400, 900)] == [16, 12, 17, 22, 32]
    assert Hierarchical().at_once(400) == 400, "0 is the whole clip"


def test_a_clip_that_fits_is_seen_whole() -> None:
    assert Hierarchical(num_frames=16).passes(16) == Whole().passes(16) == Sliding().passes(16)


def test_hierarchies_that_hold_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="clip must hold two keys and a frame between them, 3 frames, got 2"):
        Hierarchical(num_frames=8, clip=2)
    with pytest.raises(ValueError, match="num_frames must not be negative, got -1"):
        Hierarchical(num_frames=-1)


def test_shared_noise_is_the_first_frames_of_every_clip() -> None:
    draws, like = Draws(0, [("clip", 3), ("clip", 4)]), torch.empty(2, 5, 3, 3, 1)
    own, shared = Iid().noise(draws, like), Shared().noise(draws, like)
    assert torch.equal(shared, own[:, :1].expand_as(own))
    assert not torch.equal(own[:, 0], own[:, 1])
    assert torch.equal(shared[:1], Shared().noise(Draws(0, [("clip", 3)]), like[:1])), "whatever the batch"


def test_key_frames_of_fused_windows_have_their_share() -> None:
    """Passes that disagree: the keys' video says 1, the windows 0."""
    own = Fused(windows=Sliding(num_frames=5, overlap=2), key_share=0.25)
    keys, *parts = own.passes(11)
    assert (keys.frames, keys.role) == ((0, 3, 6, 10), Role.KEYS)
    assert parts == own.windows.passes(11)

    def said(part: Tensor, one: Pass) -> Tensor:
        return torch.full_like(part, float(one.role is Role.KEYS))

    found = in_passes(said, torch.zeros(1, 11, 1, 1, 1), own).flatten()
    assert found.tolist() == pytest.approx([0.25 if i in keys.frames else 0.0 for i in range(11)])
    assert "3 windows of 5" in own.told(11)
    assert own.told(11).endswith("together with a video of 4 key frames")


def test_fused_windows_without_keys_are_windows() -> None:
    windows = Sliding(num_frames=5, overlap=2)
    assert Fused(windows=windows, key_share=0).passes(11) == windows.passes(11)
    assert Fused(windows=windows).passes(5) == [Pass(range(5))]
    assert Fused(windows=windows).told(5) == "5 frames at once"
    with pytest.raises(ValueError, match="key_share must be 0 or more and below 1, got -"):
        Fused(key_share=-0.1)


def test_keys_stand_at_an_interval_and_at_the_end() -> None:
    assert Sequential(interval=4).keys(10) == [0, 4, 8, 9]
    assert Sequential(interval=4).keys(1) == [0]
    assert windows(10, Sequential(interval=4)) == [(0,), (4,), (8,), (9,), range(1, 4), range(5, 8)]
    assert "10 frames, 4 of them keys" in Sequential(interval=4).told(10)
    with pytest.raises(ValueError, match="interval must be 1 or more, got 0"):
        Sequential(interval=0)
