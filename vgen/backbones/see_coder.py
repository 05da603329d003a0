"""SeeCoder: a picture to tokens that stand in a prompt's place (Xu et al. 2023, section 3.2).

A Swin transformer gives maps at three resolutions, a decoder brings them to one width, and learnt queries
read them. Module names are those of the released files, but for the Swin transformer's, which is
transformers' own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn
from transformers import SwinBackbone, SwinConfig

from vgen.backbones.silent import Silent
from vgen.spec import field, spec

LEVELS = {"res3": "stage2", "res4": "stage3", "res5": "stage4"}
"""The maps that are read, from fine to coarse, and what transformers calls them."""
PATCH_PX, HEADS, SWIN_HEAD, NORM_GROUPS, FREQUENCIES = 4, 8, 32, 32, 20


@spec
class SeeCoderSpec:
    """Sizes as released. Widths follow the image model's tokens: at 768 the backbone is Swin-L.

    ``global_queries`` see the ``local_queries`` alone, these see the picture. ``position_aware`` tells them
    where things lie. ``leak`` lets the pictures of a batch see each other in the decoder, as the released
    code does; without it each is encoded as if it were alone.
    """

    depths: list[int] = field(default_factory=lambda: [2, 2, 18, 2])
    window: int = 12
    decoder_layers: int = 6
    query_layers: int = 9
    global_queries: int = 4
    local_queries: int = 144
    position_aware: bool = False
    leak: bool = False

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(
                f"a SeeCoder's backbone has four stages of 1 block or more, got depths={self.depths}; "
                "released are [2,2,18,2]"
            )
        for name in ("decoder_layers", "query_layers", "global_queries", "local_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"a SeeCoder's {name} must be at least 1, got {getattr(self, name)}")
        if self.window < 2:
            raise ValueError(f"a SeeCoder's window has 2 patches or more a side, got {self.window}")

    @property
    def least_px(self) -> int:
        """One window of the finest stage."""
        return self.window * PATCH_PX


def see_coder(unet: UNet2DConditionModel, knobs: SeeCoderSpec) -> SeeCoder:
    """A new one for an image UNet. Raises ValueError where that hears more than tokens, or too narrow
    ones."""
    dim = unet.config["cross_attention_dim"]
    if unet.config["addition_embed_type"]:
        raise ValueError(
            "a SeeCoder stands in the place of one text's tokens, and this image model hears "
            f"{unet.config['addition_embed_type']} beside them, as SDXL does; give a Stable Diffusion 1 model"
        )
    if not isinstance(dim, int) or dim % NORM_GROUPS:
        raise ValueError(
            f"a SeeCoder's tokens need a multiple of {NORM_GROUPS} channels, and this image model's "
            f"cross-attention has {dim}; give a Stable Diffusion 1 model, which has 768"
        )
    return SeeCoder(dim, knobs)


class SeeCoder(nn.Module):
    """Pictures n 3 H W in [0, 1] to tokens n q c; the global ones come first."""

    def __init__(self, dim: int, knobs: SeeCoderSpec) -> None:
        super().__init__()
        self.least_px = knobs.least_px
        self.swin = _swin(dim // 4, knobs)
        self.imdecoder = Decoder(self.swin.channels, dim, knobs)
        self.qtransformer = QueryTransformer(dim, knobs)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.qtransformer(self.imdecoder(self.swin(pictures).feature_maps))


def _swin(width: int, knobs: SeeCoderSpec) -> SwinBackbone:
    """Swin-L at width 192 (Liu et al. 2021). The norm behind the last stage is not read, and is left out."""
    heads = max(1, width // SWIN_HEAD)
    options: dict[str, Any] = {
        "embed_dim": width,
        "depths": list(knobs.depths),
        "num_heads": [heads * 2**stage for stage in range(4)],
        "window_size": knobs.window,
        "patch_size": PATCH_PX,
        "drop_path_rate": 0.0,
        "out_features": list(LEVELS.values()),
    }
    swin = SwinBackbone(SwinConfig(**options))
    # for mypy, it stays a norm
    setattr(swin.swin, "layernorm", nn.Identity())  # noqa: B010
    return swin


class Decoder(nn.Module):
    """Maps of three widths to maps of one, through a transformer beside lateral convolutions.

    The released transformer takes the batch for the sequence: with one picture at a time every token sees
    itself alone.
    """

    def __init__(self, widths: Sequence[int], dim: int, knobs: SeeCoderSpec) -> None:
        super().__init__()
        self.leak = knobs.leak
        named = list(zip(LEVELS, widths, strict=True))
        self.inproj_layers = nn.ModuleDict({level: _projected(w, dim, bias=True) for level, w in named})
        layer = nn.TransformerEncoderLayer(dim, HEADS, 4 * dim // 3, dropout=0.0)
        self.transformer = nn.TransformerEncoder(layer, knobs.decoder_layers, enable_nested_tensor=False)
        for weight in self.transformer.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        self.level_embed = nn.Parameter(torch.randn(len(LEVELS), dim))
        self.lateral_layers = nn.ModuleDict({level: _projected(w, dim, bias=False) for level, w in named})

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From fine to coarse, in and out; inside the coarsest comes first."""
        named = list(zip(LEVELS, maps, strict=True))[::-1]
        inside = [self.inproj_layers[level](x) for level, x in named]
        tokens = [_tokens(x) + embed for x, embed in zip(inside, self.level_embed, strict=True)]
        told = self._transformed(torch.cat(tokens, 1)).split([x.shape[1] for x in tokens], 1)
        out = []
        for (level, x), said in zip(named, told, strict=True):
            out.append(said.transpose(1, 2).unflatten(2, x.shape[-2:]) + self.lateral_layers[level](x))
        return out[::-1]

    def _transformed(self, x: Tensor) -> Tensor:
        """``x`` n l c. The transformer's sequence is its first axis."""
        if self.leak:
            return self.transformer(x)
        return self.transformer(x.flatten(0, 1)[None])[0].unflatten(0, x.shape[:2])


class QueryTransformer(nn.Module):
    """Learnt queries: the local ones read the maps in turn, level by level, then all of them each other."""

    def __init__(self, dim: int, knobs: SeeCoderSpec) -> None:
        super().__init__()
        self.num_global = knobs.global_queries
        num, layers = knobs.global_queries + knobs.local_queries, range(knobs.query_layers)
        self.pe_layer = Places(dim) if knobs.position_aware else None
        self.transformer_selfatt_layers = nn.ModuleList(SelfAttention(dim) for _ in layers)
        self.transformer_crossatt_layers = nn.ModuleList(CrossAttention(dim) for _ in layers)
        self.transformer_feedforward_layers = nn.ModuleList(FeedForward(dim, 8 * dim // 3) for _ in layers)
        self.init_query = nn.Embedding(num, dim)
        self.query_pos_embedding = nn.Embedding(num, dim)
        self.level_embed = nn.Embedding(len(LEVELS), dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        shown = [_tokens(x) + level for x, level in zip(maps, self.level_embed.weight, strict=True)]
        places = [self.pe_layer(*x.shape[-2:]) if self.pe_layer is not None else None for x in maps]
        place = self.query_pos_embedding.weight
        queries = self.init_query.weight.expand(len(shown[0]), -1, -1)
        layers = zip(
            self.transformer_crossatt_layers,
            self.transformer_selfatt_layers,
            self.transformer_feedforward_layers,
            strict=True,
        )
        for i, (cross, own, feed) in enumerate(layers):
            level, local = i % len(shown), queries[:, self.num_global :]
            local = cross(local, place[self.num_global :], shown[level], places[level])
            queries = feed(own(torch.cat([queries[:, : self.num_global], local], 1), place))
        return queries


class SelfAttention(nn.Module):
    """Attention, add, norm. A place is added to queries and keys, not to values."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = _attention(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        placed = x + place
        return self.norm(x + self.self_attn(placed, placed, x, need_weights=False)[0])


class CrossAttention(nn.Module):
    """The same over tokens of a map, which have places of their own or none."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.multihead_attn = _attention(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, place: Tensor, shown: Tensor, shown_place: Tensor | None) -> Tensor:
        keys = shown if shown_place is None else shown + shown_place
        return self.norm(x + self.multihead_attn(x + place, keys, shown, need_weights=False)[0])


class FeedForward(nn.Module):
    """Two layers with ReLU, add, norm."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, inner)
        self.linear2 = nn.Linear(inner, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(self.linear1(x).relu()))


class Places(Silent):
    """Tokens for the cells of a map, 1 (h w) c: sines and cosines of their place, seen from the middle in
    units of the shorter side, through three layers. The last one is zero at birth."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = (nn.Linear(4 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.mlp = nn.Sequential(*layers, nn.Linear(dim, dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self._last().weight)

    def forward(self, height: int, width: int) -> Tensor:
        like, shorter = self._last().weight, min(height, width)
        rates = (shorter / 2) ** torch.linspace(0, 1, FREQUENCIES, device=like.device)
        waves = [_waves(num, shorter, rates) for num in (height, width)]
        rows = waves[0][:, None].expand(-1, width, -1)
        columns = waves[1][None].expand(height, -1, -1)
        return self.mlp(torch.cat([rows, columns], -1).flatten(0, 1).to(like))[None]

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self._last().parameters())

    def _last(self) -> nn.Linear:
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        return last


def _waves(num: int, shorter: int, rates: Tensor) -> Tensor:
    """num x 2 * rates: sines, then cosines, of the cells' middles."""
    place = (torch.arange(num, device=rates.device) + 0.5 - num / 2) * (2 * math.pi / shorter)
    angle = place[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1)


def _attention(dim: int) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(dim, HEADS, batch_first=True)
    nn.init.xavier_uniform_(attention.out_proj.weight)
    return attention


def _projected(width: int, dim: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, dim, 1, bias=bias), nn.GroupNorm(NORM_GROUPS, dim))


def _tokens(x: Tensor) -> Tensor:
    """n c h w to n (h w) c."""
    return x.flatten(2).transpose(1, 2)
