"""An image UNet that accepts video, plus the layers inserted into it.

The image UNet is a guest: never edited, and able to leave without trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn

from vgen.backbones.control_net import Residuals
from vgen.backbones.image_model import Context, size_conditioning
from vgen.shapes import fold, unfold


@dataclass(slots=True)
class FrameCount:
    """Frames in the clip being denoised. Written by VideoUNet alone, read by inserted layers and attention
    processors.

    It is never cleared: gradient checkpointing replays hooks during backward, after forward has returned.
    """

    value: int | None = None

    def __call__(self) -> int:
        if self.value is None:
            raise RuntimeError(
                "frame count read before VideoUNet.forward set it; call the VideoUNet, not its .image_unet"
            )
        return self.value


class Wrapper(Protocol):
    """What :meth:`VideoUNet.around` runs: hooks of torch's, which may replace arguments and result."""

    def before(self, module: nn.Module, args: Any, /) -> Any: ...

    def after(self, module: nn.Module, args: Any, out: Any, /) -> Any: ...


class VideoUNet(nn.Module):
    """``image_unet`` with a sidecar of ``inserted`` layers, each run by a forward hook that is a bound method
    of the layer."""

    def __init__(self, image_unet: UNet2DConditionModel) -> None:
        super().__init__()
        _refuse_held(image_unet)
        self.image_unet = image_unet
        self.inserted = nn.ModuleDict()
        self.frames = FrameCount()
        self._handles: list = []
        self._processors = dict(image_unet.attn_processors)

    def insert(self, path: str, layer: nn.Module) -> None:
        """Run ``layer.after`` behind the module at ``path``."""
        name = path.replace(".", "/")
        if name in self.inserted:
            raise ValueError(
                f"site {path!r} already holds {type(self.inserted[name]).__name__}; eject it first"
            )
        self.inserted[name] = layer
        after = cast(
            Callable[[nn.Module, tuple, Any], Any], layer.after
        )  # for mypy, a module has no attributes but tensors and modules
        self._handles.append(self.image_unet.get_submodule(path).register_forward_hook(after))

    def around(self, path: str, wrapper: Wrapper) -> None:
        """Run ``wrapper.before`` ahead of and ``wrapper.after`` behind the module at ``path``; the wrapper
        holds no parameters."""
        module = self.image_unet.get_submodule(path)
        self._handles.append(module.register_forward_pre_hook(wrapper.before))
        self._handles.append(module.register_forward_hook(wrapper.after))

    def eject(self) -> None:
        """Give the image UNet back as it came."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.inserted = nn.ModuleDict()
        self.image_unet.set_attn_processor(dict(self._processors))

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the image UNet's blocks and the inserted layers, which lie outside those blocks, in
        backward; non-reentrant, so that blocks behind a frozen prefix keep their gradients."""
        self.image_unet.enable_gradient_checkpointing()
        for layer in self.inserted.values():
            setattr(layer, "recomputed", True)  # noqa: B010  for mypy, a module has no attributes but tensors and modules

    def forward(self, x: Tensor, t: Tensor, context: Context, added: Residuals | None = None) -> Tensor:
        """``x`` b f c h w, ``t`` b (or scalar), ``context`` one row per clip, ``added`` to skips and middle
        by a ControlNet; returns the model's raw prediction, b f c h w."""
        batch, num_frames = x.shape[:2]
        self.frames.value = num_frames
        t = t.expand(batch).repeat_interleave(num_frames)
        more = (
            {}
            if added is None
            else {"down_block_additional_residuals": added.down, "mid_block_additional_residual": added.mid}
        )
        out = self.image_unet(
            fold(x),
            t,
            context.tokens,
            added_cond_kwargs=size_conditioning(x, context),
            return_dict=False,
            **more,
        )[0]
        return unfold(out, num_frames)


def _refuse_held(image_unet: UNet2DConditionModel) -> None:
    """Layers of an earlier VideoUNet would run on in the new one, unseen."""
    hooks = [
        hook
        for module in image_unet.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    if any(
        isinstance(getattr(getattr(hook, "__self__", None), "frames", None), FrameCount) for hook in hooks
    ):
        raise ValueError(
            "the image UNet still holds layers of another VideoUNet; call eject() on that one, or load the "
            "image model again"
        )
