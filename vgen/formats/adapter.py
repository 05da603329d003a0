"""vgen's own format: what was learnt as safetensors, with a card that says on what and how. Reading it
executes nothing."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

import vgen
from vgen.backbones.image_model import ImageModel

FORMAT, OLDER = "vgen-adapter-2", ("vgen-adapter-1",)
_AGAIN = "the file is damaged: copy or export it again"


def plain(value: Any) -> Any:
    """Dataclasses and enums to JSON data."""
    match value:
        case Enum():
            return value.value
        case dict():
            return {k: plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case _:
            return value


def unet_fingerprint(unet: nn.Module) -> str:
    """A short hash of the image UNet's shapes and of a sample of its values at half precision.

    It tells image models apart and survives a round trip through fp16.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(unet.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        flat = value.detach().flatten()
        digest.update((flat[:: max(1, flat.numel() // 8)][:8].float().half() + 0.0).cpu().numpy().tobytes())
    return digest.hexdigest()


def unet_shapes(unet: nn.Module) -> str:
    """A short hash of the names and shapes of the image UNet's tensors: image models of one family share
    it."""
    named = sorted((name, tuple(value.shape)) for name, value in unet.state_dict().items())
    return hashlib.blake2b(repr(named).encode(), digest_size=8).hexdigest()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What an adapter was made by, and on what.

    - ``recipe`` names a method, ``knobs`` are its fields as plain data.
    - ``backbone`` is the image UNet's fingerprint, ``shapes`` that of its shapes alone (empty in older
      cards).
    - ``base``: the adapters that lay frozen beneath while it was trained, each with ``name``, ``file``,
      ``sha256`` and ``scale``; they belong beneath it for ever.
    - ``init``: the file that learning started from, with its ``sha256``; provenance alone.
    """

    recipe: str
    knobs: dict[str, Any]
    backbone: str
    backbone_source: str
    run: dict[str, Any]
    summary: dict[str, Any]
    shapes: str = ""
    base: list[dict[str, Any]] = field(default_factory=list)
    init: dict[str, Any] = field(default_factory=dict)
    version: str = vgen.__version__
    format: str = FORMAT

    @staticmethod
    def of(
        name: str,
        recipe: Any,
        model: ImageModel,
        run: dict[str, Any],
        summary: dict[str, Any],
        base: Sequence[dict[str, Any]] = (),
        init: dict[str, Any] | None = None,
    ) -> Card:
        return Card(
            recipe=name,
            knobs=plain(asdict(recipe)),
            backbone=unet_fingerprint(model.unet),
            backbone_source=model.source,
            run=plain(run),
            summary=plain(summary),
            shapes=unet_shapes(model.unet),
            base=plain(list(base)),
            init=plain(init or {}),
        )


def save_adapter(
    path: Path, tensors: dict[str, Tensor], card: Card, dtype: torch.dtype = torch.float32
) -> None:
    """Write whole or not at all. Tensor names are ``component.parameter`` as the recipe's ``learns`` sees
    them."""
    data = {name: value.detach().to("cpu", dtype).contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(
            save(data, metadata={"vgen": json.dumps(asdict(replace(card, format=FORMAT)), sort_keys=True)})
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_adapter(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Raises ValueError where the file is not a vgen adapter."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors raises its own type, and OSError
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); give the adapter.safetensors of a run"
        ) from error
    if "vgen" not in metadata:
        raise ValueError(
            f"{path} carries no vgen card; 'vgen export from={path} to=...' imports AnimateDiff and "
            "diffusers files"
        )
    card = _card(path, metadata["vgen"])
    refuse_no_numbers(tensors, str(path))
    return tensors, card


def refuse_no_numbers(tensors: Mapping[str, Tensor], whose: str) -> None:
    """Raises ValueError where a value is not finite: whatever is drawn with it is black."""
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"{whose} holds values that are no finite numbers in {len(bad)} of {len(tensors)} tensors "
            f"(first: {bad[0]}): its training diverged or the file is damaged; take an earlier one"
        )


def _card(path: Path, text: str) -> Card:
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the vgen card in {path} is no JSON ({error}); {_AGAIN}") from error
    return card_of(path, data)


def card_of(path: Path, data: Any) -> Card:
    """A card as plain data, read from ``path``. Raises ValueError where it is none."""
    if not isinstance(data, dict):
        raise ValueError(
            f"the vgen card in {path} is no section of names and values but {str(data)[:40]}; {_AGAIN}"
        )
    if data.get("format") not in (FORMAT, *OLDER):
        raise ValueError(
            f"{path} is of format {data.get('format')!r}, this vgen reads {FORMAT!r}; upgrade vgen"
        )
    kinds = {f.name: _KIND.get(str(f.type).split("[")[0], str) for f in fields(Card)}
    wrong = [n for n, kind in kinds.items() if n not in _NEWER and not isinstance(data.get(n), kind)]
    wrong += [n for n in _NEWER if n in data and not isinstance(data[n], kinds[n])]
    if wrong:
        raise ValueError(
            f"the vgen card in {path} lacks {', '.join(wrong)}, or they are of another kind; {_AGAIN}"
        )
    return Card(**{k: v for k, v in data.items() if k in kinds})


_KIND = {"dict": dict, "list": list, "str": str}
_NEWER = ("version", "shapes", "base", "init")
"""What older cards lack."""


def in_slot(components: Mapping[str, nn.Module], slot: str) -> dict[str, nn.Parameter]:
    """Parameters by the names that a file gives them: those of inserted layers of ``slot`` without the slot's
    name, and none of other slots'."""
    out = {}
    for part, module in components.items():
        for name, parameter in module.named_parameters():
            found = _INSERTED.match(name)
            if found is None:
                out[f"{part}.{name}"] = parameter
            elif _slot_of(found["called"]) == slot:
                out[f"{part}.{found['head']}{_bare(found['called'])}.{found['rest']}"] = parameter
    return out


_INSERTED = re.compile(r"^(?P<head>inserted\.[^.@]+)(?P<called>@[^.]*)?\.(?P<rest>.+)$")


def _slot_of(called: str | None) -> str:
    return (called or "@").rpartition("+")[2] if "+" in (called or "") else ""


def _bare(called: str | None) -> str:
    return (called or "").partition("+")[0].rstrip("@")


@torch.no_grad()
def put(
    components: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    learns: Sequence[str],
    whose: str = "adapter",
    slot: str = "",
) -> None:
    """Copy learnt tensors (``component.NAME``) into place; every one must fit, and all that ``learns`` names
    must be there."""
    named = in_slot(components, slot)
    unknown = [name for name in tensors if name not in named]
    wrong = [
        f"{name} {tuple(value.shape)} for {tuple(named[name].shape)}"
        for name, value in tensors.items()
        if name in named and value.shape != named[name].shape
    ]
    if unknown or wrong:
        raise ValueError(
            f"{whose} does not fit the image model: {len(unknown)} unknown tensors (first: {unknown[:3]}), "
            f"{len(wrong)} of another shape (first: {wrong[:3]})"
        )
    wanted = {name for pattern in learns for name in fnmatch.filter(named, pattern)}
    missing = [name for name in named if name in wanted and name not in tensors] if tensors else []
    if missing:
        raise ValueError(
            f"{whose} lacks {len(missing)} tensors that its method trains (first: {missing[0]}); the file is "
            "cut, of another method, or of a version of it that has fewer layers"
        )
    for name, value in tensors.items():
        named[name].copy_(value)
