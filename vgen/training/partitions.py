"""Weights that ZeRO-3 keeps in parts: each rank's own part, and the whole for a moment. Without ZeRO-3 the
part is the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def own_part(parameter: nn.Parameter) -> Tensor:
    """The values that this rank answers for: under ZeRO-3 a flat slice (padded at the end), else all of
    them."""
    held: Any = parameter  # DeepSpeed adds the attributes
    return (held.ds_tensor if is_partitioned(parameter) else held).detach()


@torch.no_grad()
def put_part(parameter: nn.Parameter, value: Tensor) -> None:
    """Set this rank's part. Every rank has to do so, in the same order: small parameters that ZeRO-3 keeps
    whole are gathered anew."""
    if not is_partitioned(parameter):
        parameter.copy_(value)
        return
    held: Any = parameter  # DeepSpeed adds the attributes
    held.partition(param_list=[parameter])
    held.ds_tensor.copy_(value)
    if held.ds_persist:
        held.all_gather(param_list=[parameter])


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    held: Any = parameter  # DeepSpeed adds the attributes
    return tuple(held.ds_shape if is_partitioned(parameter) else parameter.shape)


def gathered(parameter: nn.Parameter, part: Tensor) -> Tensor:
    """The whole of what every rank holds a ``part`` of, cut as ``parameter`` is. Every rank has to ask."""
    if not is_partitioned(parameter):
        return part
    size = torch.distributed.get_world_size()
    flat = torch.empty(size * part.numel(), dtype=part.dtype, device=part.device)
    torch.distributed.all_gather_into_tensor(flat, part.contiguous())
    shape = whole_shape(parameter)
    return flat[: math.prod(shape)].view(shape)


def part_of(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """This rank's part of a whole ``value``, cut and padded as ``parameter`` is."""
    if not is_partitioned(parameter):
        return value
    held: Any = parameter  # DeepSpeed adds the attributes
    size = held.ds_tensor.numel()
    start = size * torch.distributed.get_rank()
    part = torch.zeros(size, dtype=value.dtype)
    mine = value.flatten()[start : start + size]
    part[: mine.numel()] = mine
    return part


@contextmanager
def whole(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside the block the parameters have all their values on every rank; for reading. Every rank has to
    enter."""
    parts = [p for p in parameters if is_partitioned(p)]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield


def wholes(named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies on the CPU, gathered one by one, so that no more than one is whole at a time."""
    out = {}
    for name, parameter in named.items():
        with whole([parameter]):
            out[name] = parameter.detach().to("cpu", copy=True)
    return out
