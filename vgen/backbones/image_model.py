"""A Stable Diffusion image model as its parts: loading, saving, encoding pixels and words, decoding latents.

Every factor (VAE stride, latent scale, token length, number of text encoders) comes from the loaded configs;
nothing here knows SD's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import (
    CLIPPreTrainedModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from vgen.shapes import fold, unfold


@dataclass(slots=True)
class Context:
    """What the UNet is told about a batch of clips, once per clip. ``tokens`` b n d; ``pooled`` b d (SDXL
    only)."""

    tokens: Tensor
    pooled: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Context:
        return Context(
            self.tokens.to(device, dtype), None if self.pooled is None else self.pooled.to(device, dtype)
        )

    def __getitem__(self, rows: Any) -> Context:
        return Context(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    @staticmethod
    def cat(parts: list[Context]) -> Context:
        pooled = [p.pooled for p in parts if p.pooled is not None]
        assert len(pooled) in (0, len(parts))  # contexts of one image model: all have it or none
        return Context(torch.cat([p.tokens for p in parts]), torch.cat(pooled) if pooled else None)

    def where(self, keep: Tensor, other: Context) -> Context:
        """Rows of self where ``keep`` (b, bool), rows of ``other`` (broadcast) elsewhere."""
        tokens = torch.where(keep[:, None, None], self.tokens, other.tokens)
        if self.pooled is None:
            return Context(tokens)
        assert other.pooled is not None  # of the same image model
        return Context(tokens, torch.where(keep[:, None], self.pooled, other.pooled))


@dataclass(slots=True, kw_only=True)
class ImageModel:
    """The parts of a diffusers-layout Stable Diffusion folder (SD 1.x, 2.x, SDXL)."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[CLIPPreTrainedModel]
    tokenizer: CLIPTokenizer
    scheduler_config: dict[str, Any]
    second_tokenizer: CLIPTokenizer | None = None
    image_encoder: CLIPVisionModelWithProjection | None = None
    image_processor: Any = None
    source: str = ""
    _empty: dict[tuple[int, ...], Context] = field(default_factory=dict)

    # -- facts -----------------------------------------------------------------------------------------------
    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def size_px(self) -> int:
        """Native picture side."""
        return self.unet.config["sample_size"] * self.vae_factor

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, which are what the UNet gives back: its input may be wider."""
        return self.unet.config["out_channels"]

    @property
    def is_sdxl(self) -> bool:
        return self.unet.config["addition_embed_type"] == "text_time"

    def components(self) -> dict[str, ModelMixin | CLIPPreTrainedModel]:
        named: dict[str, ModelMixin | CLIPPreTrainedModel | None]
        named = {"unet": self.unet, "vae": self.vae, "image_encoder": self.image_encoder}
        named |= {f"text_encoder{'' if i == 0 else f'_{i + 1}'}": m for i, m in enumerate(self.text_encoders)}
        return {name: module for name, module in named.items() if module is not None}

    def modules(self) -> Iterator[nn.Module]:
        yield from self.components().values()

    def freeze(self) -> ImageModel:
        """Evaluation mode, no gradients, everywhere."""
        for module in self.modules():
            module.eval().requires_grad_(False)
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ImageModel:
        for module in self.modules():
            kept = None if dtype is None else self.dtype_of(module, dtype)
            nn.Module.to(
                module, device=device, dtype=kept
            )  # diffusers' own warns of every cast, needed or not
        self._empty.clear()
        return self

    # -- pixels ----------------------------------------------------------------------------------------------
    def encode(self, video: Tensor, generator: torch.Generator | None = None, chunk: int = 32) -> Tensor:
        """Pixels in [-1, 1] ``b f 3 H W`` to scaled latents ``b f c h w``: the posterior mean, or a sample
        where a generator is given."""
        frames = fold(video).to(self.vae.device, self.vae.dtype)
        shift, scale = self._latent_units(frames.device)
        out = []
        for part in frames.split(chunk):
            with self._vae_alone(frames):
                posterior = self.vae.encode(part).latent_dist
            latents = posterior.mean
            if generator is not None:
                latents = latents + posterior.std * torch.randn(latents.shape, generator=generator).to(
                    latents
                )
            out.append(((latents - shift) * scale).to(latents))
        return unfold(torch.cat(out), video.shape[1])

    def decode(self, latents: Tensor, chunk: int = 16) -> Tensor:
        """Scaled latents ``b f c h w`` to pixels in [-1, 1] ``b f 3 H W``, frame by frame in chunks."""
        frames = fold(latents).to(self.vae.device, self.vae.dtype)
        with self._vae_alone(frames):
            parts = [self._pixels(part) for part in frames.split(chunk)]
        return unfold(torch.cat(parts), latents.shape[1])

    def _pixels(self, latents: Tensor) -> Tensor:
        return self.vae.decode(self.unscaled(latents)).sample.clamp(-1, 1)

    def _latent_units(self, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
        """What is taken off the VAE's latents, and what they are multiplied with then: numbers, or fp32
        ``c 1 1`` where they are per channel (``latents_mean`` and ``latents_std``, as diffusers' SDXL
        pipelines read them)."""
        config = self.vae.config
        shift, scale = config["shift_factor"] or 0.0, config["scaling_factor"]
        mean, std = (
            torch.tensor(config[name], device=device)[:, None, None] if config[name] else None
            for name in ("latents_mean", "latents_std")
        )
        return shift if mean is None else mean + shift, scale if std is None else scale / std

    @property
    def vae_needs_fp32(self) -> bool:
        """Whether the VAE overflows in fp16: its file says ``force_upcast``, or it is an SDXL's and its file
        does not say otherwise (diffusers' pipelines)."""
        config = self.vae.config
        said = "force_upcast" not in config.get("_use_default_values", ())
        return config["force_upcast"] and (said or self.is_sdxl)

    def dtype_of(self, module: nn.Module, dtype: torch.dtype) -> torch.dtype:
        """``dtype``, but for a part, or a sidecar of one, that cannot be computed in it."""
        of_vae = self.vae in (module, getattr(module, "vae", None))
        kept = of_vae and dtype is torch.float16 and self.vae_needs_fp32
        return torch.float32 if kept else dtype

    def _vae_alone(self, frames: Tensor) -> AbstractContextManager[Any]:
        """A VAE that stayed in fp32 is not brought to fp16 by autocast either."""
        kind = frames.device.type
        alone = frames.dtype is torch.float32 and self.vae_needs_fp32
        return torch.autocast(kind, enabled=False) if alone else nullcontext()

    def unscaled(self, latents: Tensor) -> Tensor:
        """Scaled latents as the VAE itself gives them."""
        shift, scale = self._latent_units(latents.device)
        return (latents / scale + shift).to(latents)

    # -- words -----------------------------------------------------------------------------------------------
    def tokenize(self, prompts: list[str]) -> Tensor:
        """Token ids ``b n``, padded to the encoder's length; a prompt that is too long keeps its end-of-text
        token."""
        return self._tokenize(self.tokenizer, prompts)

    def left_out(self, prompt: str) -> int:
        """How many tokens at the end of a prompt the text encoders have no room for."""
        tokenizers = [t for t in (self.tokenizer, self.second_tokenizer) if t is not None]
        beyond = [
            len(t(prompt, verbose=False).input_ids) - t.model_max_length for t in tokenizers
        ]  # quiet: it is we who say it
        return max(0, *beyond)

    @staticmethod
    def _tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
        num_tokens = tokenizer.model_max_length
        return tokenizer(
            prompts, padding="max_length", truncation=True, max_length=num_tokens, return_tensors="pt"
        ).input_ids

    def encode_text(self, prompts: list[str]) -> Context:
        """Prompts to the context of the cross-attention, one row per prompt.

        SD: last hidden state; SDXL: penultimate states side by side. Raises ValueError for an SDXL model
        without its second tokenizer.
        """
        device = self.text_encoders[0].device
        ids = self.tokenize(prompts).to(device)
        if not self.is_sdxl:
            return Context(self.text_encoders[0](ids).last_hidden_state)
        if self.second_tokenizer is None:
            raise ValueError(
                f"image model {self.source} is an SDXL without tokenizer_2/; its folder needs both tokenizers"
            )
        second = self._tokenize(self.second_tokenizer, prompts).to(device)
        outs = [
            encoder(i, output_hidden_states=True)
            for encoder, i in zip(self.text_encoders, (ids, second), strict=True)
        ]
        return Context(torch.cat([o.hidden_states[-2] for o in outs], -1), outs[1].text_embeds)

    def empty_text(self) -> Context:
        """The context of the empty prompt, one row; computed once for every state of frozen text
        encoders."""
        if self.text_learns():
            self._empty.clear()
            return self.encode_text([""])
        state = self._text_state()
        if state not in self._empty:
            self._empty.clear()
            with torch.no_grad():
                self._empty[state] = self.encode_text([""])
        return self._empty[state]

    def _text_state(self) -> tuple[int, ...]:
        """Changes with every change of the text encoders' weights in place, and with their place."""
        out: list[int] = []
        for p in self._text_parameters():
            out += (p._version, p.untyped_storage()._cdata)
        return tuple(out)

    def text_learns(self) -> bool:
        """Whether the text encoders learn, or layers inside them."""
        return any(p.requires_grad for p in self._text_parameters())

    def _text_parameters(self) -> Iterator[nn.Parameter]:
        """Of the text encoders, and of the layers that run inside them."""
        for encoder in self.text_encoders:
            yield from encoder.parameters()
            for layer in attached(encoder):
                yield from layer.parameters()


def attached(net: nn.Module) -> Iterator[nn.Module]:
    """The layers that run inside ``net`` by a hook that is their bound method."""
    for module in net.modules():
        for hook in module._forward_hooks.values():
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, nn.Module):
                yield owner


def size_conditioning(x: Tensor, context: Context) -> dict[str, Tensor] | None:
    """SDXL's: original and target size are those of the clip, no crop."""
    if context.pooled is None:
        return None
    batch, num_frames, _, h, w = x.shape
    factor = 8  # SDXL states sizes in pixels of its own VAE
    ids = torch.tensor(
        [h * factor, w * factor, 0, 0, h * factor, w * factor], device=x.device, dtype=context.pooled.dtype
    )
    return {
        "text_embeds": context.pooled.repeat_interleave(num_frames, 0),
        "time_ids": ids.expand(batch * num_frames, -1),
    }
