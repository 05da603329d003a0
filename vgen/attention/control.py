"""What happens at each attention site at this moment: whose keys are read, what is recorded, which maps are
changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from vgen.attention.keys import FrameKeys
from vgen.attention.sites import AttentionSite
from vgen.backbones.conditioning import ForwardContext
from vgen.diffusion.moment import Moment


@dataclass(frozen=True, slots=True)
class Seen:
    """The projections of one call, before keys are gathered. ``q`` b f n c; ``k v`` b f s c, or b 1 s c where
    text serves all frames; ``hidden`` b f n c is what the projections were made from. At a TEMPORAL site each
    is b p f c: f frames at each of p positions."""

    q: Tensor
    k: Tensor
    v: Tensor
    hidden: Tensor


class Recorder(ABC):
    """Looks at projections; never needs maps, so the fused path stays."""

    @abstractmethod
    def wants(self, site: AttentionSite, moment: Moment) -> bool: ...

    @abstractmethod
    def record(self, site: AttentionSite, moment: Moment, seen: Seen) -> None: ...


@dataclass(frozen=True, slots=True)
class Maps:
    """A chunk of attention maps, ``values`` g r f m n k: guidance, branch, ``frames`` and ``heads`` of the
    whole, queries, keys.

    At a TEMPORAL site queries and keys are frames, one map per position. There axis f holds positions, of
    which ``frames`` is a slice, and n and k are frames.
    """

    values: Tensor
    site: AttentionSite
    moment: Moment
    frames: slice
    heads: slice


class MapEdit(ABC):
    """Changes attention probabilities. Called chunk by chunk; reads other rows of ``maps.values`` or a store,
    never another chunk."""

    @abstractmethod
    def wants(self, site: AttentionSite, moment: Moment) -> bool: ...

    @abstractmethod
    def __call__(self, maps: Maps) -> Tensor:
        """New values g r f m n k."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """Queries ``f n c`` and keys ``f s c`` (or 1 s c) in place of batch row ``row``'s; where ``inside`` f n
    holds, the row's own stay."""

    row: int
    q: Tensor
    k: Tensor
    inside: Tensor | None


class QkSwap(ABC):
    """Gives a row the attention pattern of another; its values stay its own. Needs no map, so the fused path
    stays."""

    @abstractmethod
    def wants(self, site: AttentionSite, moment: Moment) -> bool: ...

    @abstractmethod
    def __call__(self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor) -> Swapped | None:
        """``q`` b f n c, ``k`` b f s c or b 1 s c, as read; None: nothing to swap at this resolution."""


@dataclass(frozen=True, slots=True)
class Given:
    """Keys and values ``f s c`` (or 1 s c) in place of batch row ``row``'s.

    With ``sides``, bool ``f n`` of the queries and ``f s`` (or 1 s) of the keys, a query reads the keys of
    its own side alone. A query whose side has no key in its frame reads all keys.
    """

    row: int
    k: Tensor
    v: Tensor
    sides: tuple[Tensor, Tensor] | None = None


class KvSwap(ABC):
    """Gives rows what other rows contain; their queries stay their own. The counterpart of :class:`QkSwap`.

    At a site and step where it acts, no map edit and no :class:`QkSwap` may act.
    """

    @abstractmethod
    def wants(self, site: AttentionSite, moment: Moment) -> bool: ...

    @abstractmethod
    def __call__(
        self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor, v: Tensor, keys: FrameKeys | None
    ) -> Sequence[Given]:
        """``q`` b f n c; ``k v`` b f s c or b 1 s c, read by way of ``keys`` (None: each frame its own)."""


class OutputEdit(ABC):
    """Replaces or routes what a site hands to its block: its output, after ``to_out`` and before the residual
    is added. Needs no map, so the fused path stays."""

    @abstractmethod
    def wants(self, site: AttentionSite, moment: Moment) -> bool: ...

    @abstractmethod
    def __call__(self, site: AttentionSite, moment: Moment, out: Tensor) -> Tensor:
        """``out`` b f n c to the same shape; at a TEMPORAL site f holds positions and n frames."""


Edit = MapEdit | QkSwap | KvSwap | OutputEdit
"""What may change attention while it runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a site does until the next moment."""

    keys: FrameKeys | None
    recorders: tuple[Recorder, ...]
    swaps: tuple[QkSwap, ...]
    given: tuple[KvSwap, ...]
    maps: tuple[MapEdit, ...]
    outputs: tuple[OutputEdit, ...]

    @classmethod
    def of(
        cls, keys: FrameKeys | None, recorders: tuple[Recorder, ...], edits: Sequence[Edit], path: str
    ) -> Plan:
        swaps = tuple(e for e in edits if isinstance(e, QkSwap))
        given = tuple(e for e in edits if isinstance(e, KvSwap))
        maps = tuple(e for e in edits if isinstance(e, MapEdit))
        outputs = tuple(e for e in edits if isinstance(e, OutputEdit))
        if len(given) > 1 or (given and (swaps or maps)):
            names = ", ".join(type(e).__name__ for e in (*given, *swaps, *maps))
            raise ValueError(
                f"keys and values of other rows rule out further edits of the same maps, got {names} at "
                f"{path} in one step; give them other windows or sites"
            )
        return cls(keys, recorders, swaps, given, maps, outputs)


@dataclass(slots=True)
class Control:
    """Shared by all processors of one net. ``plans`` holds the sites at which something other than plain
    attention happens; it is written by :meth:`enter` and looked up by path, so that nothing depends on how
    often or in which order processors are called."""

    context: ForwardContext
    sites: dict[str, AttentionSite]
    keys: tuple[FrameKeys, ...] = ()
    recorders: tuple[Recorder, ...] = ()
    edits: tuple[Edit, ...] = ()
    references: dict[str, Reference] = field(default_factory=dict)
    chunk_bytes: int = 64 * 2**20

    @property
    def moment(self) -> Moment | None:
        return self.context.moment

    @property
    def plans(self) -> Mapping[str, Plan]:
        return self.context.plans

    @property
    def now(self) -> Moment:
        """The moment where there has to be one: recorders, swaps, edits and references act in denoising runs
        alone."""
        assert self.moment is not None
        return self.moment

    def enter(self, moment: Moment | None) -> None:
        """A step begins; None: no denoising run (training), where frame keys alone act."""
        self.context.moment = moment
        plans: dict[str, Plan] = {}
        for path, site in self.sites.items():
            keys = next((k for k in self.keys if k.acts(site, moment)), None)
            recorders = () if moment is None else tuple(r for r in self.recorders if r.wants(site, moment))
            edits = () if moment is None else tuple(e for e in self.edits if e.wants(site, moment))
            if keys is not None and keys.plain:
                keys = None
            if keys is not None or recorders or edits:
                plan = Plan.of(keys, recorders, edits, path)
                before = self.plans.get(path)
                plans[path] = (
                    before if before == plan else plan
                )  # the same object: a compiled processor need not look again
        self.context.plans = plans

    @contextmanager
    def acting(
        self,
        *,
        keys: Sequence[FrameKeys] | None = None,
        recorders: Sequence[Recorder] = (),
        edits: Sequence[Edit] = (),
        references: Mapping[str, Reference] | None = None,
    ) -> Iterator[Control]:
        """Within the block these act (``keys`` and ``references`` None: those that are there already);
        afterwards all is as it was."""
        before = (self.keys, self.recorders, self.edits, self.references)
        self.keys = self.keys if keys is None else tuple(keys)
        self.recorders, self.edits = tuple(recorders), tuple(edits)
        self.references = self.references if references is None else dict(references)
        try:
            yield self
        finally:
            self.keys, self.recorders, self.edits, self.references = before
            self.enter(None)


class Reference(ABC):
    """Keys and values from elsewhere: another run, an earlier key frame."""

    @abstractmethod
    def keys_values(self, site: AttentionSite, moment: Moment) -> tuple[Tensor, Tensor]:
        """``b s c`` (or 1 s c for all rows) each, read by every frame."""
