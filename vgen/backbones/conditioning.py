"""What a net is given at one evaluation, and what is known while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vgen.backbones.image_model import Context


@dataclass(frozen=True, slots=True)
class Residuals:
    """What ControlNets add to a UNet, ``(b f) c h w`` each: one per skip connection, and one for the
    middle."""

    down: tuple[Tensor, ...]
    mid: Tensor

    def __add__(self, other: Residuals) -> Residuals:
        down = tuple(a + b for a, b in zip(self.down, other.down, strict=True))
        return Residuals(down, self.mid + other.mid)

    def scaled(self, weight: Tensor) -> Residuals:
        """Times ``weight``, which broadcasts over ``(b f) c h w``."""
        return Residuals(tuple(x * weight for x in self.down), self.mid * weight)


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a net is given at one evaluation, one row per clip of its batch.

    - ``crossattn``: text, or what stands in its place; exactly one condition owns it, others append tokens.
    - ``concat``: ``b f c h w`` beside x, by name; inserted layers at the first convolution read them.
    - ``vector``: ``b`` or ``b f``, by name: frame rate, noise level.
    - ``features``: one tensor ``(b f) c h w`` per resolution, by name (T2I-Adapter, Mou et al. 2023).
    - ``residuals``: the sum of what ControlNets say.
    - ``references``: keys and values from elsewhere, by name and site.
    - ``weights``: ``b``, the strength of a named layer in each row.
    - ``stills``: whether every frame is a picture of its own, so that layers over time are left out.
    """

    crossattn: Context | None = None
    concat: Mapping[str, Tensor] = field(default_factory=dict)
    vector: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    residuals: Residuals | None = None
    references: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    stills: bool = False

    def joined(self, more: Conditioning) -> Conditioning:
        """Both together. Raises ValueError where both own the cross-attention or a name."""
        return Conditioning(
            crossattn=_only("cross-attention", self.crossattn, more.crossattn),
            concat=_named("concat", self.concat, more.concat),
            vector=_named("vector", self.vector, more.vector),
            features=_named("features", self.features, more.features),
            residuals=_sum(self.residuals, more.residuals),
            references=_named("references", self.references, more.references),
            weights=_named("weights", self.weights, more.weights),
            stills=self.stills or more.stills,
        )

    def appended(self, tokens: Tensor) -> Conditioning:
        """With ``tokens`` b n d behind those of the cross-attention."""
        own = self.text()
        return replace(self, crossattn=Context(torch.cat([own.tokens, tokens.to(own.tokens)], 1), own.pooled))

    def text(self) -> Context:
        """The cross-attention's tokens. Raises ValueError where no condition gives them."""
        if self.crossattn is None:
            raise ValueError(
                "no condition gives the cross-attention its tokens; a recipe needs one, as its text"
            )
        return self.crossattn


def _only(what: str, a: Any, b: Any) -> Any:
    if a is not None and b is not None:
        raise ValueError(f"two conditions own the {what}; one owns it, the others append to it")
    return b if a is None else a


def _named(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Mapping[str, Any]:
    both = sorted(a.keys() & b.keys())
    if both:
        raise ValueError(
            f"two conditions give {kind} of the name {', '.join(both)}; each needs a name of its own"
        )
    return {**a, **b}


def _sum(a: Residuals | None, b: Residuals | None) -> Residuals | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an encoder makes of clips: tensors by name, ``clip`` with axes b ..., ``frames`` with axes
    b f ..."""

    clip: dict[str, Tensor] = field(default_factory=dict)
    frames: dict[str, Tensor] = field(default_factory=dict)

    def fields(self) -> dict[str, Tensor]:
        """All of it by name."""
        return {**self.clip, **self.frames}


@dataclass(slots=True)
class ForwardContext:
    """What is known while a net runs: the frames of its clips, what it is given, and what its attentions do.

    The net's own sidecar writes ``num_frames`` and ``conditioning``, attention's control writes ``moment``
    and ``plans``. Inserted layers and attention processors read. Nothing is ever cleared: gradient
    checkpointing runs layers again during backward, after forward has returned.
    """

    num_frames: int | None = None
    conditioning: Conditioning = field(default_factory=Conditioning)
    moment: Any = None
    plans: Mapping[str, Any] = field(default_factory=dict)

    def frames(self) -> int:
        """Frames of the clips at hand."""
        if self.num_frames is None:
            raise RuntimeError(
                "frame count read before forward set it; call the sidecar, not the net that it holds"
            )
        return self.num_frames

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, run again in backward with the context of *this* forward.

        Two forwards before one backward (a prior, a teacher, stills beside clips) would otherwise run again
        with the context of the second. A compiled graph holds the context as its inputs and needs no help.
        """
        if torch.compiler.is_compiling():
            return checkpoint(function, *args, use_reentrant=False)
        return checkpoint(function, *args, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _Again(self)

    def state(self) -> tuple[Any, ...]:
        return self.num_frames, self.conditioning, self.moment, self.plans

    def restore(self, state: Sequence[Any]) -> None:
        self.num_frames, self.conditioning, self.moment, self.plans = state


class _Again(AbstractContextManager[None]):
    """Puts the state that a context had when this was made back for a while."""

    def __init__(self, context: ForwardContext) -> None:
        self.context, self.then = context, context.state()

    def __enter__(self) -> None:
        self._now = self.context.state()
        self.context.restore(self.then)

    def __exit__(self, *_: object) -> None:
        self.context.restore(self._now)
