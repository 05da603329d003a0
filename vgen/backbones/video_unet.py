"""Nets of the image model that accept clips, plus the layers inserted into them.

A net of the image model is a guest: never edited, and able to leave without trace.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, cast

from diffusers.models import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPPreTrainedModel

from vgen.backbones.conditioning import Conditioning, ForwardContext, Residuals
from vgen.backbones.control_net import LatentHint
from vgen.backbones.image_model import size_conditioning
from vgen.backbones.silent import Silent
from vgen.backbones.sites import INSERTED
from vgen.shapes import fold, unfold


class Wrapper(Protocol):
    """What :meth:`Sidecar.around` runs: hooks of torch's, which may replace arguments and result."""

    def before(self, module: nn.Module, args: Any, /) -> Any: ...

    def after(self, module: nn.Module, args: Any, out: Any, /) -> Any: ...


class Sidecar(nn.Module, ABC):
    """A guest net, and the ``inserted`` layers beside it, each run by a forward hook that is a bound method.

    ``GUEST`` is the attribute that holds the guest: parameters are addressed by it. ``context`` is what the
    layers look up during a forward pass, ``control`` what steers its attention where vgen runs that.
    """

    GUEST: ClassVar[str]

    def __init__(self, guest: nn.Module) -> None:
        super().__init__()
        _refuse_held(guest)
        setattr(self, self.GUEST, guest)
        self.inserted = nn.ModuleDict()
        self.context = ForwardContext()
        self.control: Any = None
        self._handles: dict[str, list[Any]] = {}
        self._processors = dict(cast(Any, guest).attn_processors) if hasattr(guest, "attn_processors") else {}

    @property
    def guest(self) -> nn.Module:
        return getattr(self, self.GUEST)

    def module_at(self, path: str) -> nn.Module:
        """The module at a site's path: in the guest, or in a layer that was inserted before."""
        owner = self if path.startswith(f"{INSERTED}.") else self.guest
        return owner.get_submodule(path)

    def insert(self, path: str, layer: nn.Module, name: str = "") -> None:
        """Run ``layer.after`` behind the module at ``path``, and ``layer.before_block``, where it has one,
        ahead of the block that the module stands in; several at one site need a ``name`` each.

        They run in the order in which they came.
        """
        key = address(path, name)
        if key in self.inserted:
            called = f"a layer called {name!r}" if name else "a layer without a name"
            raise ValueError(
                f"site {path!r} already holds {called}, {type(self.inserted[key]).__name__}; eject it "
                "first, or "
                "give the new one a name of its own"
            )
        self.inserted[key] = layer
        # for mypy, a module has no attributes but tensors and modules
        after = cast(Callable[[nn.Module, tuple, Any], Any], layer.after)
        self._handles[key] = [self.module_at(path).register_forward_hook(after)]
        before_block = getattr(layer, "before_block", None)
        if before_block is not None:
            block = self.module_at(path.rpartition(".")[0])
            self._handles[key].append(block.register_forward_pre_hook(before_block))

    def around(self, path: str, wrapper: Wrapper) -> None:
        """Run ``wrapper.before`` ahead of the module at ``path`` and ``wrapper.after`` behind it.

        The wrapper holds no parameters.
        """
        module = self.guest.get_submodule(path)
        held = self._handles.setdefault("", [])
        held.append(module.register_forward_pre_hook(wrapper.before))
        held.append(module.register_forward_hook(wrapper.after))

    def eject(self, path: str | None = None, name: str = "") -> None:
        """Take the layer at ``path`` out; without a path all of them, last come first, and give the guest
        back as it came."""
        if path is not None:
            key = address(path, name)
            if key not in self.inserted:
                raise ValueError(
                    f"site {path!r} holds no layer called {name!r}; it has {list(self.inserted)[:3]}"
                )
            self._remove(key)
            del self.inserted[key]
            return
        for key in reversed(list(self._handles)):
            self._remove(key)
        self.inserted = nn.ModuleDict()
        self.control = None
        if self._processors:
            cast(Any, self.guest).set_attn_processor(dict(self._processors))

    def _remove(self, key: str) -> None:
        for handle in reversed(self._handles.pop(key)):
            handle.remove()

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the guest's blocks and the inserted layers, which lie outside those blocks, in backward.

        Non-reentrant, so that blocks behind a frozen prefix keep their gradients. Every block and layer runs
        again with the context of its own forward.
        """
        cast(Any, self.guest).enable_gradient_checkpointing(self.context.checkpoint)
        for layer in self.inserted.values():
            # for mypy, a module has no attributes but tensors and modules
            setattr(layer, "recomputed", True)  # noqa: B010

    def disable_gradient_checkpointing(self) -> None:
        cast(Any, self.guest).disable_gradient_checkpointing()
        for layer in self.inserted.values():
            setattr(layer, "recomputed", False)  # noqa: B010


def address(path: str, name: str = "") -> str:
    """The key of a layer in ``inserted``: its site, and its name where it has one. A site in a layer that was
    inserted is called the same in whatever slot of a stack that layer stands."""
    place = _SLOT.sub("", path).replace(".", "/")
    return f"{place}@{name}" if name else place


_SLOT = re.compile(r"@?\+[^./@]*")


class TextSidecar(Sidecar):
    """A text encoder of the image model, run by the image model itself."""

    GUEST: ClassVar[str] = "guest_encoder"
    guest_encoder: CLIPPreTrainedModel

    def enable_gradient_checkpointing(self) -> None:
        """Nothing: a caption's activations are small."""


class VideoUNet(Sidecar):
    """The image UNet for clips."""

    GUEST: ClassVar[str] = "image_unet"
    image_unet: UNet2DConditionModel

    def forward(self, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
        """``x`` b f c h w, ``t`` b (or scalar), one row of ``given`` per clip; returns the model's raw
        prediction, b f c h w."""
        batch, num_frames = x.shape[:2]
        self.context.num_frames, self.context.conditioning = num_frames, given
        text, t = given.text(), t.expand(batch).repeat_interleave(num_frames)
        more: dict[str, Any] = {}
        if given.residuals is not None:
            more["down_block_additional_residuals"] = given.residuals.down
            more["mid_block_additional_residual"] = given.residuals.mid
        sizes = size_conditioning(x, text)
        out = self.image_unet(fold(x), t, text.tokens, added_cond_kwargs=sizes, return_dict=False, **more)[0]
        return unfold(out, num_frames)


class VideoControlNet(Sidecar, Silent):
    """diffusers' ControlNet for clips (Zhang et al. 2023, section 3). A new one is silent: its last
    convolutions are zero."""

    GUEST: ClassVar[str] = "control_net"
    control_net: ControlNetModel

    def forward(
        self, x: Tensor, t: Tensor, given: Conditioning, pictures: Tensor, scale: float = 1.0
    ) -> Residuals:
        """``x`` b f c h w, ``t`` b (or scalar), ``pictures`` b (or 1) f 3 H W in [0, 1]: what it is shown."""
        batch, num_frames = x.shape[:2]
        self.context.num_frames, self.context.conditioning = num_frames, given
        text, t = given.text(), t.expand(batch).repeat_interleave(num_frames)
        shown = fold(pictures.expand(batch, *pictures.shape[1:])).to(x)
        sizes = size_conditioning(x, text)
        down, mid = self.control_net(
            fold(x), t, text.tokens, shown, scale, added_cond_kwargs=sizes, return_dict=False
        )
        return Residuals(tuple(down), mid)

    def silent_outputs(self) -> list[nn.Parameter]:
        net = self.control_net
        last = [*net.controlnet_down_blocks, net.controlnet_mid_block]
        if not isinstance(net.controlnet_cond_embedding, LatentHint):
            last.insert(0, net.controlnet_cond_embedding.conv_out)
        return [p for convolution in last for p in convolution.parameters()]


class VideoDecoder(Sidecar):
    """The VAE, whose decoder sees whole clips."""

    GUEST: ClassVar[str] = "vae"
    vae: AutoencoderKL

    def forward(self, latents: Tensor) -> Tensor:
        """Unscaled latents b f c h w to pixels b f 3 H W."""
        self.context.num_frames = latents.shape[1]
        return unfold(self.vae.decode(fold(latents)).sample, latents.shape[1])


def _refuse_held(guest: nn.Module) -> None:
    """Layers of an earlier sidecar would run on in the new one, unseen."""
    hooks = [
        hook
        for module in guest.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    if any(
        isinstance(getattr(getattr(hook, "__self__", None), "context", None), ForwardContext)
        for hook in hooks
    ):
        raise ValueError(
            f"the {type(guest).__name__} still holds layers of another sidecar; call eject() on that one, "
            "or load "
            "the image model again"
        )
