"""Tiny recipes that were chosen to break the spine: each has one thing that a real system needs and that is
hard to do by accident.

None of them is in the catalogue; a test that needs one there enrols it for as long as it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models import ControlNetModel
from torch import Tensor, nn

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.sites import Kind, Site, Stage, after
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.conditions.control_net import ControlNet
from vgen.conditions.text import Text
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import Cfg, Drop
from vgen.diffusion.schedule import add_noise, target
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.layers.temporal_attention import TemporalAttentionSpec
from vgen.layers.widened import Widened
from vgen.methods._objectives import Denoising, Objective
from vgen.methods._recipe import UNET, Conditioned, Insertion, Paper, Recipe, Regime
from vgen.methods._video_model import VideoModel
from vgen.shapes import fold
from vgen.spec import field, spec

DOWN = [Stage.DOWN]
NAME = "tenant"
"""Under which a test enrols one."""


# -- layers --------------------------------------------------------------------------------------------------
class AddFeature(Inserted):
    """Adds a map of the context; holds no parameters."""

    def __init__(self, name: str, level: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.name, self.level = name, level

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        maps = self.context.conditioning.features.get(self.name)
        return x if maps is None else x + maps[self.level]

    def silent_outputs(self) -> list[nn.Parameter]:
        return []


@spec
class Added(LayerSpec):
    feature: str = "pose"

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        return AddFeature(self.feature, site.level, context)


class Heard(Inserted):
    """x (1 + w times what the context says): its gradient needs the context of its own forward."""

    def __init__(self, channels: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        frames = self.context.frames()
        loud = self.context.conditioning.vector.get("loud")
        said = (
            torch.ones(len(x), 1, 1, 1)
            if loud is None
            else loud.repeat_interleave(frames)[:, None, None, None]
        )
        return x * (1 + self.weight[None, :, None, None] * said * frames)

    def silent_outputs(self) -> list[nn.Parameter]:
        return [self.weight]


@spec
class HeardSpec(LayerSpec):
    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        return Heard(site.channels, context)


# -- modules -------------------------------------------------------------------------------------------------
class PoseEncoder(nn.Module):
    """Joints b f p j 3 to one map per level of the UNet, (b f) c h w each."""

    def __init__(self, widths: Sequence[int], joints: int = 17) -> None:
        super().__init__()
        self.stem = nn.Conv2d(joints, 8, 1)
        self.heads = nn.ModuleList(nn.Conv2d(8, width, 1) for width in widths)

    def forward(self, pose: Tensor, side: int) -> list[Tensor]:
        heat = fold(heat_maps(pose, side)).to(self.stem.weight)
        x, maps = torch.tanh(self.stem(heat)), []
        for level, head in enumerate(self.heads):
            maps.append(head(F.avg_pool2d(x, 2**level)))
        return maps


def heat_maps(pose: Tensor, side: int) -> Tensor:
    """Joints b f p j 3 as b f j h w: one bump per joint, none where it is missing."""
    axis = (torch.arange(side, device=pose.device) + 0.5) / side
    away_x = axis - pose[..., 0, None]
    away_y = axis - pose[..., 1, None]
    bumps = torch.exp(-20 * (away_y[..., :, None] ** 2 + away_x[..., None, :] ** 2))
    return bumps.nan_to_num(0).sum(2)


class Words(nn.Module):
    """Learnt tokens, said and not said."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.positive = nn.Parameter(torch.randn(tokens, width))
        self.negative = nn.Parameter(torch.randn(tokens, width))


# -- conditions ----------------------------------------------------------------------------------------------
@spec
class SourceImage(Condition):
    """Latents of the field ``source`` beside x; nothing where it is dropped."""

    def reads(self) -> tuple[str, ...]:
        return ("source",)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        pixels = fields["source"].float() / 127.5 - 1
        with torch.no_grad():
            latents = model.encode(pixels)
        return Encoded(frames={"latents": latents}, null={"latents": torch.zeros_like(latents[:1])})

    def conditioning(self, module, encoded, x, t, moment, so_far) -> Conditioning:
        return Conditioning(concat={"image": encoded.frames["latents"].to(x)})


@spec
class Pose(Condition):
    """Maps of a module that learns."""

    def reads(self) -> tuple[str, ...]:
        return ("pose",)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert module is not None
        pose = fields["pose"]
        side = fields["latents"].shape[-1]
        maps = {str(i): m.unflatten(0, pose.shape[:2]) for i, m in enumerate(module(pose, side))}
        return Encoded(frames=maps, null={name: torch.zeros_like(m[:1]) for name, m in maps.items()})

    def conditioning(self, module, encoded, x, t, moment, so_far) -> Conditioning:
        maps = tuple(fold(encoded.frames[str(i)]) for i in range(len(encoded.frames)))
        return Conditioning(features={"pose": maps})


@spec
class LearntWords(Condition):
    """Owns the cross-attention in the text's place."""

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert isinstance(module, Words)
        said = module.positive.expand(len(fields["caption"]), -1, -1)
        return Encoded(clip={"words": said}, null={"words": module.negative[None]})

    def conditioning(self, module, encoded, x, t, moment, so_far) -> Conditioning:
        return Conditioning(crossattn=Context(encoded.clip["words"]))


@spec
class Loud(Condition):
    """One number per clip, given as a field."""

    def reads(self) -> tuple[str, ...]:
        return ("loud",)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        return Encoded(clip={"loud": fields["loud"]})

    def conditioning(self, module, encoded, x, t, moment, so_far) -> Conditioning:
        return Conditioning(vector={"loud": encoded.clip["loud"]})


# -- recipes -------------------------------------------------------------------------------------------------
@spec
class Tenant(Recipe):
    paper = Paper("A tenant of the tests", "0000.00000", 2026)
    regime = Regime.CORPUS


@spec
class WidenedGuest(Tenant):
    """As InstructPix2Pix: a wider first convolution, three shares of dropout."""

    share: float = 0.05

    def conditions(self) -> dict[str, Conditioned]:
        heard = (Insertion(after(Kind.CONV_IN), Widened()),)
        return {"text": Conditioned(Text()), "image": Conditioned(SourceImage(), insertions=heard)}

    def dropout(self) -> list[Drop]:
        sets = ({"image"}, {"text", "image"}, {"text"})
        return [Drop(self.share, frozenset(one)) for one in sets]

    def learns(self) -> tuple[str, ...]:
        return ("unet.inserted.*",)


@spec
class PoseModule(Tenant):
    """As Follow Your Pose, stage 1: a module learns beside a frozen UNet."""

    share: float = 0.0
    optional: bool = False

    def conditions(self) -> dict[str, Conditioned]:
        heard = (Insertion(after(Kind.RESOLUTION, stages=DOWN), Added()),)
        pose = Conditioned(Pose(), module=pose_encoder, insertions=heard, optional=self.optional)
        return {"text": Conditioned(Text()), "pose": pose}

    def dropout(self) -> list[Drop]:
        return [Drop(self.share, frozenset({"pose"}))] if self.share else []

    def learns(self) -> tuple[str, ...]:
        return ("pose.*",)


def pose_encoder(model: ImageModel) -> nn.Module:
    return PoseEncoder(model.unet.config["block_out_channels"])


@spec
class LearningControl(Tenant):
    """As Control-A-Video: a ControlNet that learns, with layers over frames and other frames' keys in it."""

    learns_control: bool = True
    reading: str = "source"

    def conditions(self) -> dict[str, Conditioned]:
        layers = (Insertion(after(Kind.BLOCK), TemporalAttentionSpec(), into="control"),)
        control = ControlNet(reading=self.reading)
        return {
            "text": Conditioned(Text()),
            "control": Conditioned(control, module=control_net, insertions=layers),
        }

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.BLOCK), TemporalAttentionSpec())]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        first = [FrameKeys(frames=[Frame.FIRST, Frame.PREVIOUS])]
        return {UNET: first, "control": first}

    def learns(self) -> tuple[str, ...]:
        own = ("unet.inserted.*.attn_temp.*",)
        inside = ("control.control_net.*", "control.inserted.*.attn_temp.*")
        return (*own, *inside) if self.learns_control else own


def control_net(model: ImageModel) -> nn.Module:
    widths = (8,) * len(model.vae.config["block_out_channels"])
    net = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=widths)
    return VideoControlNet(net)


@spec
class WordsAlone(Tenant):
    """As DreamArtist: two sets of vectors in the text's place, and a loss on the guided prediction."""

    scale: float = 3.0

    def conditions(self) -> dict[str, Conditioned]:
        return {"text": Conditioned(LearntWords(), module=words)}

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(guidance=Cfg(scale=self.scale))

    def learns(self) -> tuple[str, ...]:
        return ("text.*",)


def words(model: ImageModel) -> nn.Module:
    return Words(3, model.unet.config["cross_attention_dim"])


@spec
class TextEncoderToo(Tenant):
    """As DreamBooth: the UNet and the text encoder learn."""

    share: float = 0.0

    def dropout(self) -> list[Drop]:
        return [Drop(self.share, frozenset({"text"}))] if self.share else []

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*", "text_encoder.*")


class Prior(Objective):
    """Stills and clips in one loss: two forwards before one backward."""

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        fields = video_model.prepare(batch.fields_by_name())
        latents = fields["latents"].float()
        clips = self._error(video_model, fields, latents, draws)
        still = dict(fields)
        if "still_loud" in fields:
            still["loud"] = fields["still_loud"]
        stills = self._error(video_model, still, latents[:, :1], draws)
        return {"loss": clips + stills}

    def _error(
        self, video_model: VideoModel, fields: dict[str, Any], latents: Tensor, draws: Draws
    ) -> Tensor:
        noise, t = draws.normal("noise", latents), torch.full((len(latents),), 500)
        alpha, sigma = video_model.schedule.alpha_sigma(t, latents)
        x, nothing = add_noise(latents, noise, alpha, sigma), [frozenset[str]()] * len(latents)
        out = video_model.predict(video_model.encode(fields), nothing, x, t)
        return F.mse_loss(out, target(video_model.prediction, latents, noise, alpha, sigma))


@spec
class TwoForwards(Tenant):
    """As DreamBooth's prior preservation, with layers that read the context."""

    def conditions(self) -> dict[str, Conditioned]:
        return {"text": Conditioned(Text()), "loud": Conditioned(Loud())}

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.RESNET), HeardSpec())]

    def objective(self, model: ImageModel) -> Prior:
        return Prior()

    def learns(self) -> tuple[str, ...]:
        return ("unet.inserted.*",)


# -- bad ones ------------------------------------------------------------------------------------------------
@spec
class TwoOwners(Tenant):
    def conditions(self) -> dict[str, Conditioned]:
        return {"text": Conditioned(Text()), "words": Conditioned(LearntWords(), module=words)}


@spec
class NowhereNet(Tenant):
    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.BLOCK), TemporalAttentionSpec(), into="control")]


@spec
class InsertsForNothing(Tenant):
    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.BLOCK), TemporalAttentionSpec())]

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*.attn2.to_q.weight",)


@spec
class ForgetsItsField(Tenant):
    """Its condition reads what no sample can hold."""

    def conditions(self) -> dict[str, Conditioned]:
        return {"text": Conditioned(Text()), "loud": Conditioned(Loud())}

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.RESNET), HeardSpec())]

    def learns(self) -> tuple[str, ...]:
        return ("unet.inserted.*",)


@spec
class Named(Tenant):
    """Two layers at one site."""

    names: list[str] = field(default_factory=lambda: ["", "second"])

    def insertions(self) -> list[Insertion]:
        where = after(Kind.BLOCK, stages=DOWN)
        return [Insertion(where, TemporalAttentionSpec(), name=name) for name in self.names]

    def learns(self) -> tuple[str, ...]:
        return ("unet.inserted.*.attn_temp.*",)


@spec
class TakenName(Tenant):
    def conditions(self) -> dict[str, Conditioned]:
        return {"text": Conditioned(Text()), "vae": Conditioned(Pose(), module=pose_encoder)}


@spec
class DropsNothing(Tenant):
    """A slip of the pen, which would train without dropout in silence."""

    def dropout(self) -> list[Drop]:
        return [Drop(0.1, frozenset({"imag"}))]
