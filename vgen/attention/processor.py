"""The one attention processor of the house: fused attention, whose keys may come from other frames and whose
maps may be changed."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from diffusers.models import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from vgen.attention.control import Control, Plan, Seen
from vgen.attention.planned import Kernel, attended
from vgen.attention.sites import AttentionSite, attention_sites
from vgen.backbones.attend import attend
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.video_unet import Sidecar


class VideoAttention:
    """Self- and cross-attention of an image UNet that is fed clips, ``(b f) n c``.

    Unless its ``control`` has a plan for the site, self-attention stays within a frame. Cross-attention takes
    its keys and values from ``b`` rows of text: instead of copying them for every frame, the frames' queries
    are folded into one long query per clip, a view.
    """

    def __init__(self, site: AttentionSite, control: Control) -> None:
        self.site, self.control = site, control

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        residual, shape = hidden_states, hidden_states.shape
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        shared = (
            encoder_hidden_states is not None and len(source) != shape[0]
        )  # text of a clip, read by all its frames
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        plan = self.control.plans.get(self.site.path)
        if plan is not None and attention_mask is None:
            return self._planned(plan, attn, (q, k, v), hidden_states)
        if shared:
            q = q.reshape(len(source), -1, q.shape[-1])
        out = _fused(q, k, v, attn, attention_mask)
        out = attn.to_out[1](attn.to_out[0](out.reshape(*shape[:2], -1)))
        return _joined(out, residual, attn)

    def _planned(
        self, plan: Plan, attn: Attention, qkv: tuple[Tensor, Tensor, Tensor], hidden: Tensor
    ) -> Tensor:
        num_frames = self.control.context.frames()
        q, k, v = qkv
        q = q.unflatten(0, (-1, num_frames))
        k, v = (x.unflatten(0, (-1, num_frames)) if len(x) != len(q) else x[:, None] for x in (k, v))
        seen = Seen(q, k, v, hidden.unflatten(0, (-1, num_frames)))
        kernel = Kernel(attn.heads, attn.scale, partial(_attend, attn=attn))
        out = attended(self.control, self.site, plan, seen, kernel)
        out = attn.to_out[1](attn.to_out[0](out.reshape(*hidden.shape[:2], -1)))
        for edit in plan.outputs:
            out = edit(self.site, self.control.now, out.unflatten(0, (-1, num_frames))).flatten(0, 1)
        return _joined(out, hidden, attn)


def _joined(out: Tensor, residual: Tensor, attn: Attention) -> Tensor:
    return (out + residual if attn.residual_connection else out) / attn.rescale_output_factor


def _attend(q: Tensor, k: Tensor, v: Tensor, attn: Attention) -> Tensor:
    """``q`` b f n c, ``k v`` b f s c or b 1 s c; returns ``b f n c``."""
    if k.shape[1] == 1:
        return _fused(q.flatten(1, 2), k[:, 0], v[:, 0], attn, None).unflatten(1, (q.shape[1], -1))
    out = _fused(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn, None)
    return out.unflatten(0, (-1, q.shape[1]))


def _fused(q: Tensor, k: Tensor, v: Tensor, attn: Attention, mask: Tensor | None) -> Tensor:
    """``rows n c`` each; heads are split here."""
    q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
    return attend(q, k, v, mask, attn.scale).transpose(1, 2).flatten(2)


def install(net: UNet2DConditionModel | ControlNetModel, context: ForwardContext) -> Control:
    """Put :class:`VideoAttention` on every attention of a UNet or ControlNet; what they share is returned."""
    sites = attention_sites(net)
    control = Control(context, {site.path: site for site in sites})
    # Any: diffusers lists its own
    processors: dict[str, Any] = {f"{site.path}.processor": VideoAttention(site, control) for site in sites}
    net.set_attn_processor(processors)
    return control


def route(sidecar: Sidecar) -> Control:
    """Install the processors on the guest of a sidecar; ``Sidecar.eject`` takes them off again."""
    sidecar.control = install(cast(Any, sidecar.guest), sidecar.context)
    return sidecar.control


def control_of(net: Sidecar | UNet2DConditionModel | ControlNetModel) -> Control:
    """What the processors of a sidecar's guest (or of a copy of it) share."""
    if isinstance(net, Sidecar):
        found = net.control
    else:
        found = getattr(next(iter(net.attn_processors.values())), "control", None)
    if not isinstance(found, Control):
        raise ValueError(
            f"the attention of {type(net).__name__} is not run by vgen; assemble the recipe on it first"
        )
    return found
