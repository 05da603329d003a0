"""What people's programs put around the tensors of a checkpoint, and what a file is by its names.

A wrapper is an entry of a trainer that holds the tensors (``state_dict``, ``model``, ``ema_state_dict``); a
prefix stands before every name (``module.`` of data parallel, ``_orig_mod.`` of a compiled net, ``unet.`` of
a pipeline).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

WRAPPERS = (
    "state_dict",
    "ema_state_dict",
    "model_state_dict",
    "unet_state_dict",
    "model",
    "module",
    "motion_module",
    "unet",
    "ema",
)
"""The first that is there is taken."""
PREFIXES = ("module.", "_orig_mod.", "unet.", "model.", "ema.", "motion_module.")
_LOW_RANK = (
    "_lora.down.",
    "_lora.up.",
    ".lora.down.",
    ".lora.up.",
    ".lora_A.",
    ".lora_B.",
    ".lora_down.",
    ".lora_up.",
    ".lora_linear_layer.",
)
_SPARSE = ("controlnet_down_blocks.", "controlnet_cond_embedding.", "controlnet_mid_block.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """``state`` without what was around it: ``wrapper`` names entries from the outside in, joined by slashes;
    ``unread`` are the entries that stood beside them."""

    state: dict[Any, Any]
    wrapper: str
    prefix: str
    unread: tuple[str, ...]

    def __str__(self) -> str:
        """What was taken off, in words; nothing where there was nothing."""
        parts = [f"a {self.wrapper} wrapper"] * bool(self.wrapper)
        parts += [f"the prefix {self.prefix} of every name"] * bool(self.prefix)
        return " and ".join(parts)


def inside(entries: Mapping[Any, Any]) -> Unwrapped:
    """The tensors inside every wrapper, with their names as they are."""
    state, wrappers, unread = dict(entries), [], []
    while name := _wrapper(state):
        wrappers.append(name)
        unread += [str(other) for other in state if other != name]
        state = dict(state[name])
    return Unwrapped(state=state, wrapper="/".join(wrappers), prefix="", unread=tuple(unread))


def unwrapped(entries: Mapping[Any, Any]) -> Unwrapped:
    """The tensors inside every wrapper, without the prefixes that all their names have."""
    found = inside(entries)
    state, prefix = found.state, ""
    while one := _prefix(state):
        prefix += one
        state = {name.removeprefix(one): value for name, value in state.items()}
    return Unwrapped(state=state, wrapper=found.wrapper, prefix=prefix, unread=found.unread)


def _wrapper(state: Mapping[Any, Any]) -> str:
    return next((name for name in WRAPPERS if isinstance(state.get(name), Mapping)), "")


def _prefix(state: Mapping[Any, Any]) -> str:
    def everywhere(prefix: str) -> bool:
        return all(isinstance(name, str) and name.startswith(prefix) for name in state)

    return next((prefix for prefix in PREFIXES if state and everywhere(prefix)), "")


# -- what it is ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Kind:
    """A file that is no motion module: how it is called, and how it is told by its names."""

    called: str
    told_by: Callable[[list[str]], bool]


def _some(*parts: str) -> Callable[[list[str]], bool]:
    """Whether one of the parts stands in one of the names."""
    return lambda names: any(part in name for name in names for part in parts)


def _both(one: Callable[[list[str]], bool], two: Callable[[list[str]], bool]) -> Callable[[list[str]], bool]:
    return lambda names: one(names) and two(names)


_KINDS = (
    _Kind("a motion LoRA", _both(_some(".motion_modules."), _some(*_LOW_RANK))),
    _Kind("a SparseCtrl condition encoder", _both(_some(".motion_modules."), _some(*_SPARSE))),
    _Kind("a ControlNet", _some(*_SPARSE, "control_model.", "zero_convs.")),
    _Kind("a HotShot-XL temporal layer file", _some(".temporal_attentions.", "pos_encoder.positional")),
    _Kind("a LoRA of an image model", _some(*_LOW_RANK, "lora_unet_", "lora_te_")),
    _Kind("an IP-Adapter", _some("image_proj.", "ip_adapter.", ".to_k_ip.")),
    _Kind("a whole Stable Diffusion checkpoint", _some("model.diffusion_model.", "first_stage_model.")),
    _Kind("a ModelScope video UNet", _some(".temp_convs.", "transformer_in.")),
    _Kind("a Tune-A-Video UNet", _some(".attn_temp.", ".attn_temporal.")),
    _Kind("a text embedding", _some("string_to_param", "emb_params")),
    _Kind("a VAE", _some("encoder.conv_in.", "decoder.conv_in.")),
    _Kind("a whole image UNet without motion modules", _some("time_embedding.linear_1.", "input_blocks.0.")),
)
"""The first that fits is the answer."""


def what_it_is(entries: Mapping[Any, Any]) -> str:
    """What a checkpoint is by its names, as ``a motion LoRA``; nothing where they tell nothing."""
    names = _flat(entries)
    return next((kind.called for kind in _KINDS if kind.told_by(names)), "")


def _flat(entries: Mapping[Any, Any]) -> list[str]:
    """Names of all tensors, those in wrappers behind the wrapper's."""
    names = []
    for name, value in entries.items():
        if isinstance(value, Mapping):
            names += [f"{name}.{inner}" for inner in _flat(value)]
        elif isinstance(value, Tensor) or value is None:
            names.append(str(name))
    return names
