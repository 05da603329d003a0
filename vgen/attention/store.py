"""What attention saw in one run, kept for another.

Kept are queries and keys rather than maps, which are many times larger and are made again on reading.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vgen.attention.control import Recorder, Reference, Seen
from vgen.attention.keys import FrameKeys, gathered
from vgen.attention.maps import heads_of, probabilities
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere, tokens
from vgen.diffusion.frames import Frames
from vgen.diffusion.moment import Moment
from vgen.diffusion.step_window import StepWindow
from vgen.spec import Choice, field, spec


class Payload(Choice):
    """``qk`` (maps are recomputed on reading), ``kv`` (for attention that reads this run), ``maps`` (the
    originals' way, for comparison), ``hidden`` (what the projections are made from)."""

    QK = "qk"
    KV = "kv"
    MAPS = "maps"
    HIDDEN = "hidden"


class Place(Choice):
    """Where the store lives: beside the model, in (pinned) main memory, or in a folder of safetensors files
    removed with the store. What a bound on memory leaves no room for lies there too
    (``StoreSpec.max_memory_gb``)."""

    DEVICE = "device"
    CPU = "cpu"
    DISK = "disk"


class Kept(Choice):
    """Number format in which values are kept."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


_DTYPE = {Kept.FP32: torch.float32, Kept.FP16: torch.float16, Kept.BF16: torch.bfloat16}


@spec
class StoreSpec:
    """``max_queries`` caps the resolution: sites with more query tokens in a frame are not kept (FateZero
    keeps 32 x 32 = 1024).

    ``max_memory_gb`` bounds what stays on the device or in main memory (1e9 bytes; 0 is no bound): what comes
    after goes to disk. ``folder`` is where files of a store on disk lie; the system's temporary folder if
    empty.
    """

    place: Place = Place.CPU
    kept: Kept = Kept.FP16
    max_queries: int = 1024
    max_memory_gb: float = 0.0
    folder: str = ""
    where: AttentionWhere = field(default_factory=AttentionWhere)
    window: StepWindow = field(default_factory=StepWindow)

    def __post_init__(self) -> None:
        if self.max_queries < 1:
            raise ValueError(
                f"store.max_queries must be at least 1, got {self.max_queries}; 1024 keeps maps of 32 x 32 "
                "and below"
            )
        if not self.max_memory_gb >= 0:
            raise ValueError(
                f"store.max_memory_gb must be 0 (no bound) or more, got {self.max_memory_gb}; what is over "
                "goes to disk"
            )

    def in_memory(self, nbytes: int) -> int:
        """How many of a store's ``nbytes`` stay off the disk."""
        if self.place is Place.DISK:
            return 0
        return min(nbytes, int(self.max_memory_gb * 1e9)) if self.max_memory_gb else nbytes


Address = tuple[int, str, Frames | None]
"""Step, site path, frames of the window."""


RowName = tuple[str, str]
"""Guidance and branch of a row of the batch."""


Reads = Callable[[AttentionSite, int], bool]
"""Whether what a site did at a step will be read."""


def always(site: AttentionSite, step: int) -> bool:
    return True


class AttentionStore(Recorder, Reference):
    """Records one clip's run, addressed by (step, site path, frames of the window); of sites and steps that
    ``reads`` names, where it is given: what nobody will read is not kept. ``nbytes`` is what it holds,
    wherever that lies.

    A run with guidance has several rows; ``rows`` names those to keep, by guidance and branch. Without names
    the run must have one row. Where one row is kept, every row that reads gets it; where several are, each
    gets the one of its name (Rerender records both guidance rows).
    """

    def __init__(
        self,
        settings: StoreSpec,
        payload: Payload = Payload.QK,
        reads: Reads = always,
        rows: Sequence[RowName] = (),
    ) -> None:
        self.settings, self.payload, self.reads, self.rows = settings, payload, reads, tuple(rows)
        self._bytes: dict[Address, int] = {}
        self._held: dict[Address, dict[str, Tensor] | Path] = {}
        self._folder: Path | None = None
        self._device: torch.device | None = None

    @property
    def nbytes(self) -> int:
        return sum(self._bytes.values())

    @property
    def nbytes_on_disk(self) -> int:
        return sum(self._bytes[at] for at, held in self._held.items() if isinstance(held, Path))

    # -- writing ---------------------------------------------------------------------------------------------
    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        chosen = self.settings.where(site) and self.settings.window.holds(moment.step, moment.num_steps)
        return chosen and self.reads(site, moment.step)

    def record(self, site: AttentionSite, moment: Moment, seen: Seen) -> None:
        kept = self._kept(moment, len(seen.q))
        if tokens(site, seen.q) > self.settings.max_queries:
            return
        match self.payload:
            case Payload.QK:
                parts = {"q": seen.q[kept], "k": seen.k[kept]}
            case Payload.KV:
                parts = {"k": seen.k[kept], "v": seen.v[kept]}
            case Payload.HIDDEN:
                parts = {"hidden": seen.hidden[kept]}
            case Payload.MAPS:
                scale = (seen.q.shape[-1] // site.heads) ** -0.5
                q, k = (heads_of(x[kept], site.heads) for x in (seen.q, seen.k))
                parts = {"maps": probabilities(q, k, scale)}
        self._device = seen.q.device
        self._put(
            _address(site, moment),
            {name: value.detach().to(_DTYPE[self.settings.kept]) for name, value in parts.items()},
        )

    def _kept(self, moment: Moment, batch: int) -> list[int]:
        """Rows of a batch to keep."""
        if self.rows:
            return [moment.rows.at(*row) for row in self.rows]
        if batch != 1:
            raise ValueError(
                f"an attention store records one clip in one row, got a batch of {batch}; run it "
                "without guidance, or name the rows to keep"
            )
        return [0]

    def _put(self, at: Address, parts: dict[str, Tensor]) -> None:
        self._held.pop(at, None)  # asked again (fixed point), it replaces the last
        self._bytes[at] = sum(x.numel() * x.element_size() for x in parts.values())
        in_memory = self.nbytes - self.nbytes_on_disk
        match self.settings.place if self.settings.in_memory(in_memory) == in_memory else Place.DISK:
            case Place.DEVICE:
                self._held[at] = {name: x.contiguous().clone() for name, x in parts.items()}
            case Place.CPU:
                pin = self._device is not None and self._device.type == "cuda"
                self._held[at] = {
                    name: x.cpu().contiguous().pin_memory() if pin else x.cpu().contiguous().clone()
                    for name, x in parts.items()
                }
            case Place.DISK:
                path = (
                    self._on_disk()
                    / f"{at[0]:05d}.{_named(at[2]).replace(' ', '-')}.{at[1].replace('/', '-')}.safetensors"
                )
                save_file({name: x.cpu().contiguous() for name, x in parts.items()}, path)
                self._held[at] = path

    def _on_disk(self) -> Path:
        """The store's own folder, made with its first file and removed with the store."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="vgen-attention-", dir=self.settings.folder or None))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    # -- reading ---------------------------------------------------------------------------------------------
    def holds(self, site: AttentionSite, moment: Moment) -> bool:
        return _address(site, moment) in self._held

    def get(self, site: AttentionSite, moment: Moment) -> dict[str, Tensor]:
        """What was kept of one row, ``f ...`` each: of the only one, or of the first conditional one."""
        row = next((i for i, (guidance, _) in enumerate(self.rows) if guidance == "text"), 0)
        return {name: x[row] for name, x in self.get_rows(site, moment).items()}

    def get_rows(self, site: AttentionSite, moment: Moment) -> dict[str, Tensor]:
        """What was kept, ``r f ...`` each."""
        held = self._held.get(_address(site, moment))
        if held is None:
            raise ValueError(
                f"nothing was recorded at step {moment.step} of {site.path} for {_named(moment.frames)}; "
                "the recording run must have the same steps and windows of frames, and cover the edit's "
                "steps and sites"
            )
        parts = load_file(held) if isinstance(held, Path) else held
        return {
            name: x.to(self._device, non_blocking=True) if self._device else x for name, x in parts.items()
        }

    def maps(
        self, site: AttentionSite, moment: Moment, frames: slice, heads: slice, keys: FrameKeys | None = None
    ) -> Tensor:
        """Probabilities ``f m n k`` of the recorded run, float32; ``keys`` as they were read there."""
        if self.payload is Payload.MAPS:
            return self.get(site, moment)["maps"][frames, heads].float()
        q, k = (x.float() for x in self.queries_keys(site, moment, keys))
        q, k = (
            heads_of(q[frames], site.heads)[:, heads],
            heads_of(k[frames] if len(k) > 1 else k, site.heads)[:, heads],
        )
        return probabilities(q, k, q.shape[-1] ** -0.5)

    def queries_keys(
        self, site: AttentionSite, moment: Moment, keys: FrameKeys | None = None
    ) -> tuple[Tensor, Tensor]:
        """``f n c`` and ``f s c`` (or 1 s c) of the recorded run, keys as they were read there."""
        if self.payload is not Payload.QK:
            raise ValueError(
                f"a store of {self.payload.value} holds no queries and keys; record with payload qk"
            )
        parts = self.get(site, moment)
        q, k = parts["q"], parts["k"]
        return q, gathered(k[None], keys, None)[
            0
        ] if keys is not None and site.kind is AttentionKind.SELF else k

    def keys_values(self, site: AttentionSite, moment: Moment) -> tuple[Tensor, Tensor]:
        """``b s c`` each, one row for every row of ``moment``, or 1 s c where one was kept."""
        parts = self.get_rows(site, moment)
        k, v = (parts[name].flatten(1, 2) for name in ("k", "v"))
        if len(self.rows) < 2:
            return k, v
        wanted = [(guidance, branch) for guidance in moment.rows.guidance for branch in moment.rows.branches]
        missing = [" of ".join(row) for row in wanted if row not in self.rows]
        if missing:
            raise ValueError(
                f"the recorded run kept no row {', '.join(missing)}, but "
                f"{', '.join(' of '.join(row) for row in self.rows)}; name every row that will be read"
            )
        order = [self.rows.index(row) for row in wanted]
        return k[order], v[order]


def _address(site: AttentionSite, moment: Moment) -> Address:
    return moment.step, site.path, moment.frames


def _named(frames: Frames | None) -> str:
    return "the whole clip" if frames is None else f"frames {frames[0]} to {frames[-1]}"


def stored_bytes(
    sites: list[AttentionSite],
    size: tuple[int, int],
    num_frames: int,
    num_steps: int,
    text_tokens: int,
    settings: StoreSpec,
    payload: Payload,
    reads: Reads = always,
    num_rows: int = 1,
) -> int:
    """What a run over latents of ``size`` (height, width) would store, by arithmetic alone: shown before
    anything is allocated."""
    total, width = 0, torch.finfo(_DTYPE[settings.kept]).bits // 8
    for site in sites:
        n = math.prod(side >> site.level for side in size)
        if n > settings.max_queries or not settings.where(site):
            continue
        cross, temporal = site.kind is AttentionKind.CROSS, site.kind is AttentionKind.TEMPORAL
        keys = text_tokens if cross else num_frames * n
        match payload:
            case Payload.QK:
                numbers = (num_frames * n + keys) * site.channels
            case Payload.KV:
                numbers = 2 * keys * site.channels
            case Payload.HIDDEN:
                numbers = num_frames * n * site.channels
            case Payload.MAPS:
                keys = text_tokens if cross else num_frames if temporal else n
                numbers = site.heads * num_frames * n * keys
        total += (
            num_rows * numbers * width * sum(reads(site, step) for step in settings.window.steps(num_steps))
        )
    return total
