"""FateZero: a clip edited with the attention maps of its own inversion (Qi et al. 2023).

Two readings of the frames that self-attention reads exist: the released configurations use the middle frame
alone (``frames: [middle]``, the default), the text says the frame itself and the middle one (``[self,
middle]``). Shape edits start from a Tune-A-Video checkpoint, whose own frames (first and previous) are kept
with ``frames: []``. The released UNet pools the norms of its residual blocks over frames, on an image model
too: that is ``image_norm_scope: clip``, of a bare image model alone, since a checkpoint brings its own scope.
Trains nothing. The low-resource mode is ``num_steps=10 store.place=disk``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vgen.attention.control import MapEdit, QkSwap
from vgen.attention.edits import CopySelf, Recorded, SwapCross
from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.masks import MaskSpec, mask_sites, stored_mask
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.attention.store import AttentionStore, Payload, Reads, StoreSpec, stored_bytes
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.step_window import StepWindow
from vgen.layers.norm import NormScope
from vgen.methods._edit_session import Acting, EditSession
from vgen.methods._editing import Edited, Recording, check_fixed_point
from vgen.methods._recipe import UNET, Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

MaskAt = Callable[[Moment, tuple[int, int]], Tensor]
"""Step, and the size of a map: ``f h w`` bool."""


@method(
    "fatezero",
    paper=Paper("FateZero: Fusing Attentions for Zero-shot Text-based Video Editing", "2303.09535", 2023),
    regime=Regime.EDIT,
)
@spec
class FateZero(Recipe, Recording):
    """``cross`` and ``self_attention`` are the windows in which the inversion's maps are injected: (.8, .8)
    for style, (.5-.8, .4-.6) for attributes, (0-.3, .5) for shape. With words to blend, self maps are
    injected outside their mask alone (``mask.threshold``; 2 is everywhere). ``from_level`` is the finest
    level whose self-attention reads ``frames``: 1 is "640 channels and more" on SD-1.x. Words are amplified
    in the window of cross-attention, as released, or in all steps, as the paper's formula has it."""

    frames: list[Frame] = field(default_factory=lambda: [Frame.MIDDLE])
    from_level: int = 1
    cross: StepWindow = field(default_factory=lambda: StepWindow(end=0.8))
    self_attention: StepWindow = field(default_factory=lambda: StepWindow(end=0.6))
    mask: MaskSpec = field(default_factory=MaskSpec)
    store: StoreSpec = field(default_factory=StoreSpec)
    fixed_point_steps: int = 0
    reconstruct: bool = True
    amplify_in_all_steps: bool = False
    image_norm_scope: NormScope = NormScope.FRAME

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        where = AttentionWhere(from_level=self.from_level)
        return {UNET: [FrameKeys(frames=self.frames, where=where)]} if self.frames else {}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def cross_window(self, replaces: bool = True) -> StepWindow:
        return self.cross

    def amplifies_in(self, replaces: bool = True) -> StepWindow | None:
        return None if self.amplify_in_all_steps else self.cross

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=7.5)

    def edit(self, session: EditSession) -> Edited:
        alignment, store = session.words.alignment(), AttentionStore(self.store, reads=self._reads(session))
        tokens = _places(session)
        trajectory = session.invert(session.wish.source, [store], fixed_point_steps=self.fixed_point_steps)
        reconstruction = (
            session.reconstruct(trajectory.start, session.wish.source) if self.reconstruct else None
        )
        source = Recorded(store, self._keys_of(session))
        mask = self._mask_of(session, store, tokens) if tokens else None
        cross, words = self.cross.of_rows(session.num_steps), session.words.cross_by_word(alignment)
        edits: list[MapEdit | QkSwap] = [
            SwapCross(
                source=source,
                window=cross,
                words=words,
                alignment=alignment,
                max_queries=self.store.max_queries,
            ),
            CopySelf(
                source=source,
                window=self.self_attention,
                max_queries=self.store.max_queries,
                mask=mask,
                size=session.size,
            ),
            *(
                session.words.amplified(StepWindow())
                if self.amplify_in_all_steps
                else session.words.amplified(cross, words)
            ),
        ]
        encoded, guidance = session.encoded(session.wish.target), Cfg(scale=session.sampling.guidance)
        acting = Acting(edits=edits)
        latents = session.sample(trajectory.start, lambda _: encoded, guidance, acting=acting)
        shown = None if mask is None else self._halfway(mask, session)
        return Edited(
            latents, reconstruction, shown, {"words": alignment.preview(), "store_bytes": store.nbytes}
        )

    def store_bytes(self, session: EditSession) -> int:
        sites, size, tokens = (
            list(session.control.sites.values()),
            session.size,
            session.model.tokenizer.model_max_length,
        )
        reads = self._reads(session)
        return sum(
            stored_bytes(sites, size, len(frames), session.num_steps, tokens, self.store, Payload.QK, reads)
            for frames in session.windows
        )

    def _reads(self, session: EditSession) -> Reads:
        """What of the inversion the edit will read, by its windows and for its masks."""
        cross, blends = (
            [w.of_rows(session.num_steps) for w in (self.cross, *session.wish.cross_replace_steps.values())],
            bool(_places(session)),
        )

        def reads(site: AttentionSite, step: int) -> bool:
            injected = self.self_attention.holds(step, session.num_steps)
            if site.kind is AttentionKind.SELF:
                return injected
            return any(w.holds(step, session.num_steps) for w in cross) or (
                blends and (injected or step == session.num_steps // 2)
            )

        return reads

    def _mask_of(self, session: EditSession, store: AttentionStore, tokens: list[int]) -> MaskAt:
        """Where the words are at a step of the inversion, straight at a map's own size as in the released
        code."""
        sites, latent = mask_sites(session.control.sites.values(), session.size, self.mask), session.size

        def at(moment: Moment, size: tuple[int, int]) -> Tensor:
            return stored_mask(store, sites, moment, tokens, latent, size, self.mask)

        return at

    def _halfway(self, mask: MaskAt, session: EditSession) -> Tensor:
        """The mask of the middle step for people to see; where windows overlap, what either of them holds."""
        out = torch.zeros(session.num_frames, *session.size, dtype=torch.bool)
        for frames in session.windows:
            at = Moment(session.num_steps // 2, session.num_steps, 0, Direction.DENOISE, Rows(), frames)
            out[list(frames)] |= mask(at, session.size).cpu()
        return out

    def _keys_of(self, session: EditSession) -> Callable[[AttentionSite], FrameKeys | None]:
        """How the recorded run read its frames, site by site."""
        rules = session.control.keys

        def keys(site: AttentionSite) -> FrameKeys | None:
            found = (
                next((k for k in rules if k.acts(site, None)), None)
                if site.kind is AttentionKind.SELF
                else None
            )
            return None if found is None or found.plain else found

        return keys


def _places(session: EditSession) -> list[int]:
    """Tokens of the source in whose attention it is seen where the edit may act; none without words to blend.
    Raises ValueError where only the target has them."""
    tokens, words = session.words.blend_tokens(), ",".join(session.wish.blend)
    if tokens and "source" not in tokens:
        raise ValueError(
            f"blend=[{words}] names no word of the source, in whose attention this method sees where things "
            f"are; name what it replaces too, as blend=[WORD,{words}]"
        )
    return tokens.get("source", [])
