"""What a computation holds in memory, counted as its tensors come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
GPU_BLOCK = 512
"""A CUDA allocation takes a multiple of so many bytes (torch's caching allocator)."""
HEAD_MULTIPLE = 8
"""Channels of a head, of which fused attention on a GPU takes a multiple."""


class Counting(TorchDispatchMode):
    """Bytes of the tensors that were made while it lasts: ``live`` now, ``peak`` at most; and the floating
    point operations of matrix products, convolutions and attention, ``flops``.

    It stands above a FakeTensorMode, whose tensors have shapes and no values. Operations on tensors that
    have values are computed: what does not hang on weights, as random draws, is small and is known.
    ``block`` is what every allocation is a multiple of. What a kernel takes for itself while it runs is
    not counted, but for attention's backward on a GPU.
    """

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self.block = block
        self._held: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        with unset_fake_temporarily() if _is_known(func, args, given) else nullcontext():
            out = func(*args, **given)
        self.flops += _flops(func, args, given, out)
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self._take(one.untyped_storage())
        if (
            self.block > 1
            and func._overloadpacket is aten._scaled_dot_product_flash_attention_for_cpu_backward
        ):
            self.peak = max(self.peak, self.live + _flash_workspace(args[1]))
        return out

    def begin(self) -> None:
        """Peak and operations from now on."""
        self.peak, self.flops = self.live, 0

    def _take(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._held:
            return
        size = -(-storage.nbytes() // self.block) * self.block
        self._held[key] = weakref.ref(storage, partial(self._give, key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _give(self, key: int, size: int, _: weakref.ref) -> None:
        del self._held[key]
        self.live -= size


def _is_known(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the result hangs on no tensor without values; what is made of nothing has none, but numbers in
    a row have."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    if not tensors:
        return func._overloadpacket is aten.arange
    return not any(isinstance(one, FakeTensor) for one in tensors)


def _flops(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Multiplications and additions of one operation; torch's own table lacks attention on a CPU."""
    packet = func._overloadpacket
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return 4 * _scores(args[0], args[1]) * args[0].shape[-1]
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return 10 * _scores(args[1], args[2]) * args[1].shape[-1]
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def _flash_workspace(q: Tensor) -> int:
    """Bytes that backward of FlashAttention-2 (Dao 2023) takes on a GPU while it runs: fp32 sums for queries
    ``b h n d``, with rows in blocks of 128 and heads in blocks of 32 channels, and one number a row. For
    attention over frames, of few rows, that is more than all it keeps."""
    batch, heads, num, width = q.shape
    rows = -(-num // 128) * 128
    channels = -(-width // 32) * 32
    return 4 * batch * heads * rows * (channels + 1)


def _scores(q: Tensor, k: Tensor) -> int:
    """Pairs of a query and a key."""
    return q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]


_WIDE = ("group_norm", "layer_norm", "mse_loss", "softmax")
"""What of torch.nn.functional autocast computes in fp32 on a GPU and not on a CPU (torch.amp, "CUDA Ops that
autocast to float32"), as far as a UNet runs it."""


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """While it lasts, autocast on a CPU takes to fp32 what it takes there on a GPU, and attention has heads
    as wide as a GPU's kernels take them. The functions themselves are exchanged: what is computed again in
    backward has to meet them too, and no mode of torch's lasts there."""
    before = {name: getattr(F, name) for name in (*_WIDE, _ATTENTION)}
    for name in _WIDE:
        setattr(F, name, partial(_in_fp32, before[name]))
    setattr(F, _ATTENTION, partial(_padded, before[_ATTENTION]))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)


_ATTENTION = "scaled_dot_product_attention"


def _in_fp32(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_autocast_enabled("cpu"):
        return function(*args, **kwargs)
    given = {name: _widened(one) for name, one in kwargs.items()}
    return function(*map(_widened, args), **given)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value


def _padded(
    function: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """torch pads heads to a multiple of eight for the fused kernels of a GPU, and keeps them so."""
    scale = kwargs.pop("scale", None)
    own = query.shape[-1] ** -0.5 if scale is None else scale
    wide = [F.pad(one, (0, -one.shape[-1] % HEAD_MULTIPLE)) for one in (query, key, value)]
    if query.shape[-1] % HEAD_MULTIPLE == 0:
        wide = [query, key, value]
    return function(*wide, *args, scale=own, **kwargs)[..., : value.shape[-1]]
