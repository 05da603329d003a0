"""Rerender A Video: key frames drawn anew one after another by an image model with a ControlNet, and carried
from there to every frame (Yang et al. 2023).

A key frame starts from its own latent, noised, with one noise for all. Self-attention on the way up reads
what the first and the previous key frame were made of, in place of its own. The predicted sample takes the
first key's shapes early, its statistics late. In between, the pixels of both keys, carried along optical flow
and encoded faithfully, are fused in; a key is therefore drawn twice. The frames between two keys are made of
both by guided patch matching. Trains nothing; needs a clip and a ControlNet. Differs from the released code:
flow is OpenCV's, patches are matched by vgen, and keys stand at 0, 10, 20 and the end, not at 1, 11, 21.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.attention.keys import FrameKeys
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.attention.store import AttentionStore, Payload, StoreSpec, stored_bytes
from vgen.backbones.sites import Stage
from vgen.backbones.warp import Motion, motion, moved, softened
from vgen.data.propagate import Propagation, propagated
from vgen.diffusion.frames import FrameSchedule, Sequential, Sliding, Whole
from vgen.diffusion.fusion import (
    PixelFusion,
    Samples,
    ShapeFusion,
    StyleFusion,
    faithful,
    flat_places,
)
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import noised
from vgen.diffusion.solvers import StepHooks, levels, timesteps
from vgen.diffusion.start import Shared
from vgen.diffusion.step_window import Ends, StepWindow
from vgen.methods._edit_session import Acting, EditSession
from vgen.methods._editing import Edited, Recording
from vgen.methods._recipe import UNET, Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

EVERY_QUERY = 2**20
NUM_STORES = 3
"""Of the first key frame, of the previous one, and of the one at hand."""


@dataclass(frozen=True, slots=True)
class Key:
    """A drawn key frame: its number, its ``latents`` 1 1 c h w, its ``pixels`` 1 3 H W in [-1, 1]."""

    number: int
    latents: Tensor
    pixels: Tensor


@dataclass(slots=True)
class Kept:
    """What is kept of earlier key frames: the first one, the samples it went through, the one before the one
    at hand, and what the attention of both saw."""

    first: Key
    samples: Samples
    previous: Key
    stores: dict[str, AttentionStore]


@method(
    "rerender",
    paper=Paper("Rerender A Video: Zero-Shot Text-Guided Video-to-Video Translation", "2306.07954", 2023),
    regime=Regime.EDIT,
)
@spec
class Rerender(Recipe, Recording):
    """``strength`` of 1 draws a key frame from noise. ``shapes``, ``pixels`` and ``style`` are the windows of
    the three fusions; the first and the last include both ends, as released. ``fused`` is what the carried
    pixels weigh and ``inner`` how far lost noise is made up for. ``where`` are the self-attentions that read
    earlier keys. ``keys_only`` shows the key frames, before minutes are spent on the others. ``suffix`` is
    put behind the prompt and ``negative`` says what is not wanted."""

    along_pictures: ClassVar[bool] = True
    needs_clip: ClassVar[bool] = True
    interval: int = 10
    strength: float = 0.95
    where: AttentionWhere = field(default_factory=lambda: AttentionWhere(stages=[Stage.UP]))
    shapes: StepWindow = field(default_factory=lambda: StepWindow(end=0.1, ends=Ends.BOTH))
    pixels: StepWindow = field(default_factory=lambda: StepWindow(start=0.5, end=0.8, ends=Ends.NEITHER))
    style: StepWindow = field(default_factory=lambda: StepWindow(start=0.8, ends=Ends.BOTH))
    fused: float = 0.5
    inner: float = 0.9
    keys_only: bool = False
    propagation: Propagation = field(default_factory=Propagation)
    store: StoreSpec = field(default_factory=lambda: StoreSpec(max_queries=EVERY_QUERY))
    suffix: str = ""
    negative: str = ""

    def __post_init__(self) -> None:
        Sequential(interval=self.interval)
        shares = {"strength": self.strength, "fused": self.fused, "inner": self.inner}
        wrong = [f"{name}={value:g}" for name, value in shares.items() if not 0 <= value <= 1]
        if wrong or not self.strength:
            raise ValueError(
                "strength, fused and inner are shares from 0 to 1, strength above 0, got "
                f"{', '.join(wrong) or 'strength=0'}; 0.95, 0.5 and 0.9 are usual"
            )

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        return {UNET: [FrameKeys(frames=[], references=["first", "previous"], where=self.where)]}

    def start(self) -> Shared:
        return Shared()

    def frame_schedule(self, window: Sliding) -> FrameSchedule:
        return Sequential(interval=self.interval)

    def sampling(self) -> Sampling:
        return Sampling(num_steps=20, guidance=7.5)

    def prompts(self) -> list[str]:
        return [self.negative]

    def store_bytes(self, session: EditSession) -> int:
        sites, size = list(session.control.sites.values()), session.size
        rows = len(Cfg(scale=session.sampling.guidance).rows())
        one = stored_bytes(
            sites, size, 1, session.num_steps, 0, self.store, Payload.KV, self._reads, num_rows=rows
        )
        return NUM_STORES * one

    def _reads(self, site: AttentionSite, step: int) -> bool:
        return site.kind is AttentionKind.SELF and self.where(site)

    # -- the whole -------------------------------------------------------------------------------------------
    def edit(self, session: EditSession) -> Edited:
        clip = self._clip(session)
        numbers = Sequential(interval=self.interval).keys(session.num_frames)
        keys = self._keys(session, clip, numbers)
        latents, report = torch.cat([key.latents for key in keys], 1), {"key_frames": numbers}
        if self.keys_only:
            return Edited(latents, report=report, frames=numbers)
        drawn = torch.cat([key.pixels for key in keys])
        told = partial(session.progress, "propagate")
        video = propagated(clip, numbers, drawn.to(clip), self.propagation, told)
        return Edited(latents, report=report, pixels=video[None])

    def _clip(self, session: EditSession) -> Tensor:
        """The source, f 3 H W."""
        if session.pixels is None:
            raise ValueError("Rerender draws a clip anew that exists; give video=FILE")
        if session.num_frames < 2:
            raise ValueError(
                "Rerender carries key frames on to other frames, got a clip of 1 frame; give num_frames of 2 "
                "or more"
            )
        return session.pixels[0]

    def _keys(self, session: EditSession, clip: Tensor, numbers: list[int]) -> list[Key]:
        runs, samples = 2 * len(numbers) - 1, Samples()
        store = self._store(session)
        at = self._at(session, numbers[0], 0, runs)
        first = self._drawn(at, numbers[0], StepHooks(on_sample=(samples,)), store)
        kept = Kept(first, samples, first, {"first": store, "previous": store})
        out = [first]
        for i, number in enumerate(numbers[1:]):
            back = [motion(clip[key.number], clip[number]) for key in (kept.previous, first)]
            hooks = self._fusions(session, kept, back[1])
            direct = self._drawn(self._at(session, number, 2 * i + 1, runs), number, hooks, None, kept)
            again, store = self._at(session, number, 2 * i + 2, runs), self._store(session)
            pixels = self._pixel_fusion(again, kept, direct.pixels, back)
            hooks = replace(hooks, before=(pixels.before,), on_sample=(*hooks.on_sample, pixels.on_sample))
            out.append(self._drawn(again, number, hooks, store, kept))
            kept.previous, kept.stores = out[-1], {**kept.stores, "previous": store}
        return out

    def _store(self, session: EditSession) -> AttentionStore:
        rows = [(name, "target") for name in Cfg(scale=session.sampling.guidance).rows()]
        return AttentionStore(self.store, Payload.KV, self._reads, rows)

    def _at(self, session: EditSession, number: int, done_runs: int, runs: int) -> EditSession:
        """One frame, whose steps are told as a share of all runs."""

        def told(_phase: str, done: int, total: int) -> None:
            session.progress("keys", done_runs * total + done, runs * total)

        return replace(session.frame(number), frames=Whole(), progress=told)

    # -- one key frame ---------------------------------------------------------------------------------------
    def _drawn(
        self,
        one: EditSession,
        number: int,
        hooks: StepHooks,
        store: AttentionStore | None,
        kept: Kept | None = None,
    ) -> Key:
        assert one.latents is not None  # of a clip that exists
        steps, spacing = one.num_steps, one.sampling.spacing
        share = 1 - int((1 - self.strength) * steps + 1e-9) / steps
        schedule = one.video_model.schedule
        first_step, x = noised(one.latents.float(), one.noise, schedule, steps, share, spacing)
        encoded = one.encoded(one.wish.target + self.suffix, negative=self.negative)
        acting = Acting(
            keys=[] if kept is None else self.attention_keys()[UNET],
            edits=one.words.amplified(StepWindow()),
            recorders=[] if store is None else [store],
            references=None if kept is None else kept.stores,
        )
        guidance = Cfg(scale=one.sampling.guidance)
        latents = one.sample(
            x, lambda _: encoded, guidance, acting=acting, hooks=hooks, first_step=first_step
        )
        with torch.no_grad():
            return Key(number, latents, one.model.decode(latents)[0])

    def _fusions(self, session: EditSession, kept: Kept, back: Motion) -> StepHooks:
        """Statistics, then shapes, of the first key frame."""
        factor, steps = session.model.vae_factor, session.num_steps
        flow = F.interpolate(back.flow / factor, session.size, mode="bilinear")
        seen = 1 - F.max_pool2d(softened(back.hidden), factor)

        def carried(x0: Tensor) -> Tensor:
            return moved(x0[:, 0], flow.to(x0), mode="nearest")[:, None]

        shapes = ShapeFusion(
            first=kept.samples, carried=carried, seen=seen[None], window=self.shapes, num_steps=steps
        )
        style = StyleFusion(first=kept.samples, window=self.style, num_steps=steps)
        return StepHooks(on_sample=(style, shapes))

    def _pixel_fusion(self, one: EditSession, kept: Kept, direct: Tensor, back: list[Motion]) -> PixelFusion:
        """What both keys say of this frame, where one of them saw it."""
        model, steps, picture = one.model, one.num_steps, direct
        for key, way in zip((kept.previous, kept.first), back, strict=True):
            warped = moved(key.pixels, way.flow.to(direct))
            picture = torch.lerp(warped, picture, softened(way.hidden).to(direct))
        unseen = softened(back[0].hidden * back[1].hidden)
        mask = 1 - F.max_pool2d(unseen, model.vae_factor).to(direct)
        with torch.no_grad():
            composite = faithful(
                picture, lambda x: model.encode(x[None])[0], lambda z: model.decode(z[None])[0]
            )
        schedule, sampling = one.video_model.schedule, one.sampling
        grid = timesteps(schedule, steps, sampling.solver, sampling.spacing)
        return PixelFusion(
            composite=(composite * mask)[None].float(),
            weight=self.fused * mask[None].float(),
            flat=flat_places(mask)[None].float(),
            inner=self.inner,
            levels=levels(schedule, grid, sampling.solver),
            noise=one.fresh,
            window=self.pixels,
            num_steps=steps,
        )
