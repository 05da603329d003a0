"""Fitting a clip's fields to its frames, and showing them again (CoDeF, Ouyang et al. 2023, section 3.3)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.flow import disagreeing, farneback, inside
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.step_window import StepWindow
from vgen.layers.canonical_field import Instant, VideoField, pixel_points, read_at
from vgen.layers.hash_grid import level_weights
from vgen.methods._objectives import Objective
from vgen.methods._rendering import Shown
from vgen.methods._video_model import VideoModel

GREY = (0.299, 0.587, 0.114)
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
CHUNK = 1 << 16
"""Points that are rendered at once."""


@dataclass(kw_only=True)
class Reconstruction(Objective):
    """Errors of one whole frame a step: squared, of colours; absolute, of their gradients, times
    ``gradient``; the way that optical flow leads must not leave the canonical point, times ``flow``; outside
    their mask groups show a ramp, times ``background``. The deformation's levels come in one after the other
    in the steps of ``annealing``. A clip without a field ``flow`` has it estimated."""

    gradient: float
    flow: float
    background: float
    annealing: StepWindow

    def __post_init__(self) -> None:
        self._progress = 1.0
        self._flows: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def enter(self, step: int, num_steps: int) -> None:
        acts = self.annealing.steps(num_steps)
        self._progress = min(1.0, max(0.0, (step - acts.start) / max(1, len(acts))))

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        field = cast(VideoField, video_model.modules["field"])
        device = video_model.device
        frames = (batch.pixels(device)[0] + 1) / 2  # f 3 H W
        _refuse_unfit(batch, field)
        num_frames, _, *size = frames.shape
        at = Instant(int(draws.integers("frame", num_frames, torch.device("cpu"))[0]), num_frames)
        points = pixel_points(size[0], size[1], device=device)
        weights = level_weights(self._progress, field.spec.num_levels).to(device)
        bent, colours = field(points, at, weights)
        target = frames[at.index].flatten(1).T  # n 3
        inside_group = groups_of(batch.fields.get("mask"), field.spec.num_groups, at.index, len(target))
        inside_group = inside_group.to(device)
        parts = {
            "colour": squared(colours, target, inside_group).sum(),
            "gradient": gradient_errors(colours, target, inside_group, (size[0], size[1])).sum(),
            "flow": self._flow(batch, field, points, at, bent, inside_group, weights),
            "background": colours.new_zeros(()),
        }
        if field.spec.num_groups > 1:
            parts["background"] = squared(colours, ramp(points), ~inside_group).sum()
        loss = parts["colour"] + self.gradient * parts["gradient"]
        loss = loss + self.flow * parts["flow"] + self.background * parts["background"]
        error = (joined(colours, inside_group) - target).square().mean().detach()
        return {"loss": loss, **parts, "psnr": -10 * error.clamp_min(1e-6).log10()}

    def _flow(
        self,
        batch: Batch,
        field: VideoField,
        points: Tensor,
        at: Instant,
        bent: Tensor,
        inside_group: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Mean distance of the canonical points of a pixel here and where it is in the next frame, along each
        axis, over pixels that both frames show, summed over groups."""
        if not self.flow or at.index + 1 == at.num_frames:
            return bent.sum() * 0
        steps, seen = self._flow_from(batch, at.index, points)
        later = field.bent(points + steps, Instant(at.index + 1, at.num_frames), weights)
        return _means((later - bent).abs().mean(-1), inside_group & seen).sum()

    def _flow_from(self, batch: Batch, frame: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """Steps n 2 in shares of the frame, and which pixels are seen again, n."""
        key = (batch.keys[0][0], frame)
        if key not in self._flows:
            assert batch.video is not None  # the objective has read its pixels
            given = batch.fields.get("flow")
            flow, seen = (
                estimated(batch.video[0, frame : frame + 2]) if given is None else _as_given(given[0, frame])
            )
            height, width = seen.shape
            steps = torch.from_numpy(flow[..., ::-1].copy()).float() / torch.tensor([height, width])
            self._flows[key] = (steps.flatten(0, 1), torch.from_numpy(seen).flatten())
        steps, visible = self._flows[key]
        return steps.to(points), visible.to(points.device)


def _refuse_unfit(batch: Batch, field: VideoField) -> None:
    """Raises ValueError for anything but one whole clip, with fields of its size."""
    assert batch.video is not None  # its pixels were read
    if len(batch) != 1:
        raise ValueError(f"a field holds one clip, and a batch has {len(batch)}; set data.batch_size=1")
    if batch.video.shape[1] < 2:
        raise ValueError(
            "a clip of one frame has no motion to fit; set data.window.num_frames to as many as the clip has"
        )
    if batch.at is not None and int(batch.at[0, 0]) != 0:
        raise ValueError(
            f"a field holds a whole clip, and this window of it begins at frame {int(batch.at[0, 0])}; set "
            "data.window.num_frames to as many frames as the sample has"
        )
    height, width = batch.video.shape[-2:]
    for name in ("flow", "mask"):
        given = batch.fields.get(name)
        if given is not None and given.shape[-2:] != (height, width):
            raise ValueError(
                f"{name} has {given.shape[-1]} x {given.shape[-2]} px where the clip has {width} x {height}; "
                f"write {name} again, as large as the clip"
            )


def groups_of(mask: Tensor | None, num_groups: int, frame: int, num_points: int) -> Tensor:
    """bool g n: which pixels of a frame belong to each group, by a mask b f h w of group numbers; of two
    groups the second is where the mask is not 0. Raises ValueError for a number that no group has."""
    if num_groups == 1:
        return torch.ones(1, num_points, dtype=torch.bool)
    assert mask is not None  # it is required
    numbers = mask[0, frame].flatten().long()
    if num_groups == 2:
        numbers = (numbers > 0).long()
    if int(numbers.max()) >= num_groups:
        raise ValueError(
            f"the mask of frame {frame} has the group {int(numbers.max())}, and "
            f"method.video_field.num_groups={num_groups} counts from 0 to {num_groups - 1}; raise it, or "
            "write group numbers into the mask"
        )
    return numbers == torch.arange(num_groups)[:, None]


def squared(colours: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of each group, g, of ``colours`` g n 3 inside ``mask`` g n."""
    return _means((colours - target).square().mean(-1), mask)


def ramp(points: Tensor) -> Tensor:
    """What a group shows where it has no pixel, n 3: row, column, row."""
    return torch.cat([points, points[:, :1]], -1)


def gradient_errors(colours: Tensor, target: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean absolute difference of the grey pictures' Sobel gradients, of each group, g."""
    ours = sobel((colours @ colours.new_tensor(GREY)).unflatten(1, size))
    theirs = sobel((target @ target.new_tensor(GREY)).unflatten(0, size)[None])
    return _means((ours - theirs).abs().mean(1).flatten(1), mask)


def sobel(grey: Tensor) -> Tensor:
    """Pictures g h w to gradients along columns and rows, g 2 h w; beyond the edges is 0."""
    kernel = grey.new_tensor(SOBEL)
    return F.conv2d(grey[:, None], torch.stack([kernel, kernel.T])[:, None], padding=1)


def _means(errors: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row of ``errors`` g n inside ``mask``, g; 0 where it is empty."""
    return (errors * mask).sum(-1) / mask.sum(-1).clamp_min(1)


def joined(colours: Tensor, mask: Tensor) -> Tensor:
    """Each pixel's colour from the group that it belongs to, n 3, of ``colours`` g n 3."""
    return (colours * mask[..., None]).sum(0)


def estimated(pair: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Optical flow h w 2 (x and y in pixels) from the first to the second frame, uint8 2 3 h w, and where
    there and back agree, h w."""
    if importlib.util.find_spec("cv2") is None:
        raise ValueError(
            "optical flow needs OpenCV, which is not installed: pip install 'vgen[metrics]', write the field "
            "flow into the shards, or set method.flow=0"
        )
    first, second = pair.permute(0, 2, 3, 1).cpu().numpy()
    there, back = farneback(first, second), farneback(second, first)
    return there, inside(there) & ~disagreeing(there, back)


def _as_given(flow: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Flow 2 h w as h w 2, and which pixels stay in the picture."""
    there = flow.permute(1, 2, 0).cpu().numpy()
    return there, inside(there)


# -- showing -------------------------------------------------------------------------------------------------
@torch.no_grad()
def canonical_pictures(field: VideoField, size: tuple[int, int], border: int) -> Tensor:
    """One picture per group, g 3 H W in [0, 1]: the frame of ``size`` without deformation, and ``border``
    pixels beyond each edge."""
    device = next(field.parameters()).device
    points = pixel_points(*size, border, device)
    sides = [side + 2 * border for side in size]
    groups = [
        torch.cat([field.colours(part, group) for part in points.split(CHUNK)])
        for group in range(field.spec.num_groups)
    ]
    return torch.stack(groups).mT.unflatten(-1, sides).clamp(0, 1)


@torch.no_grad()
def shown_frames(
    field: VideoField, shown: Shown, border: int, pictures: Sequence[Tensor] | None = None
) -> Tensor:
    """Frames f 3 h w in [0, 1]: of the canonical fields, or of canonical ``pictures`` 3 H W in their
    place."""
    device = next(field.parameters()).device
    points = pixel_points(*shown.size, device=device)
    mask = None if shown.mask is None else torch.tensor(shown.mask)[None]
    frames = []
    for index in range(shown.num_frames):
        at = Instant(index, shown.num_frames)
        colours = torch.cat(
            [_colours(field, part, at, shown, border, pictures) for part in points.split(CHUNK)], 1
        )
        belongs = groups_of(mask, field.spec.num_groups, index, len(points)).to(device)
        frames.append(joined(colours, belongs).T.unflatten(-1, shown.size))
    return torch.stack(frames).clamp(0, 1)


def _colours(
    field: VideoField,
    points: Tensor,
    at: Instant,
    shown: Shown,
    border: int,
    pictures: Sequence[Tensor] | None,
) -> Tensor:
    """g n 3."""
    if pictures is None:
        return field(points, at)[1]
    bent = field.bent(points, at)
    pairs = zip(pictures, bent, strict=True)
    return torch.stack([read_at(picture, one, shown.size, border) for picture, one in pairs])


def named_pictures(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Canonical pictures uint8 g h w 3 by the names of their files, numbered where there are several."""
    numbers = [""] if len(pictures) == 1 else [f"_{i}" for i in range(len(pictures))]
    return {f"canonical{number}": one for number, one in zip(numbers, pictures, strict=True)}


def as_pictures(given: Sequence[np.ndarray], like: Tensor) -> list[Tensor]:
    """Edited pictures uint8 h w 3 as 3 h w in [0, 1]. Raises ValueError where there are more or fewer than
    ``like`` g 3 H W has, and where one has other proportions: it would be bent onto the wrong places."""
    if len(given) != len(like):
        raise ValueError(
            f"canonical has {len(given)} pictures, and the checkpoint {len(like)} groups; give one for each, "
            "as canonical_0.png, canonical_1.png, ... in a folder"
        )
    height, width = like.shape[-2:]
    for picture in given:
        h, w = picture.shape[:2]
        if h * width != w * height:
            raise ValueError(
                f"the canonical picture is {w} x {h} px, and the one that was given out {width} x {height}; "
                "give it back at that size, or as many times as large"
            )
    return [torch.tensor(one, device=like.device).permute(2, 0, 1).float() / 255 for one in given]
