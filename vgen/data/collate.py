"""Clips side by side: fields as tensors with a first axis for the clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vgen.data.clips import Clip


def stacked(clips: Sequence[Clip]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every field of the clips, b ..., and of those that some of them lack which have it, b bool.

    Clips that lack a field get rows of 0, and so do missing people of a pose (nan there). Raises ValueError
    where two clips have one field in different shapes.
    """
    names = list(dict.fromkeys(name for clip in clips for name in clip.fields))
    fields, present = {}, {}
    for name in names:
        arrays = [clip.fields.get(name) for clip in clips]
        fields[name] = torch.from_numpy(np.stack(_alike(name, arrays, clips)))
        if any(array is None for array in arrays):
            present[name] = torch.tensor([array is not None for array in arrays])
    return fields, present


def frame_rates(clips: Sequence[Clip]) -> Tensor | None:
    """Frames per second of the stored samples, b; None where one of them does not say."""
    said = [clip.metadata.get("fps") for clip in clips]
    if not all(isinstance(rate, (int, float)) for rate in said):
        return None
    return torch.tensor(said, dtype=torch.float32)


def _alike(name: str, arrays: list[np.ndarray | None], clips: Sequence[Clip]) -> list[np.ndarray]:
    """The arrays in one shape, those that are not there filled in."""
    first = next(array for array in arrays if array is not None)
    shape, empty = first.shape, 0.0
    if name == "pose":  # f p j 3: as many people as any of the clips shows
        most = max(array.shape[1] for array in arrays if array is not None)
        shape, empty = (shape[0], most, *shape[2:]), np.nan
        arrays = [array if array is None else _crowd(array, most) for array in arrays]
    filled = [np.full(shape, empty, first.dtype) if array is None else array for array in arrays]
    for array, clip in zip(filled, clips, strict=True):
        if array.shape != shape:
            raise ValueError(
                f"{name} of sample {clip.key[0]!r} is {array.shape} where another of its batch is {shape}: "
                "clips of a batch need one shape; write the shards again so, or set data.batch_size=1"
            )
    return filled


def _crowd(pose: np.ndarray, num_people: int) -> np.ndarray:
    """f p j 3 with more people, who are missing."""
    more = ((0, 0), (0, num_people - pose.shape[1]), (0, 0), (0, 0))
    return np.pad(pose, more, constant_values=np.nan)
