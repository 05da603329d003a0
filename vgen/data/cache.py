"""What frozen encoders make of fields (latents and text embeddings), computed once. A cache carries a
fingerprint and is refused where it does not fit."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgen.backbones.conditioning import Prepared
from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Encoder
from vgen.data.clips import Clip, Clips, clip_rng, numbers, per_frame, windowed
from vgen.data.fields import FIELDS, VIDEO, Needs
from vgen.data.leftovers import remove_abandoned
from vgen.data.leftovers import temporary as temporary_of
from vgen.data.npy import GrowingArray
from vgen.data.sample import Sample

log = logging.getLogger(__name__)
_TELL_EVERY_SECONDS = 15.0
_PIXELS_AT_ONCE = {"cuda": 2**23, "cpu": 2**18}
"""What is read before it is encoded, by device: 32 pictures of 512 px or 2048 of 64 px for a GPU, 64 of 64 px
for a CPU."""
_UNITS = ("shift_factor", "latents_mean", "latents_std")
WAIT_SECONDS = 3600.0


def encoders_fingerprint(model: ImageModel) -> str:
    """Hash of every weight of the VAE and the text encoders, and of the latent scale."""
    units: list[Any] = [model.vae.config["scaling_factor"], model.tokenizer.model_max_length]
    units += [model.vae.config[name] for name in _UNITS if model.vae.config[name] is not None]
    digest = hashlib.blake2b(json.dumps(units).encode(), digest_size=16)
    for module in (model.vae, *model.text_encoders):
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


class ImageModelEncoder:
    """The VAE and the text encoders of an image model: ``latents`` of every frame, ``text`` and perhaps
    ``pooled`` of every caption, float16 on the CPU."""

    def __init__(self, model: ImageModel) -> None:
        self.model = model

    def fingerprint(self) -> str:
        return encoders_fingerprint(self.model)

    @torch.no_grad()
    def prepare(self, fields: dict[str, Any], device: torch.device) -> Prepared:
        for encoder in (self.model.vae, *self.model.text_encoders):
            encoder.to(device)
        out = Prepared()
        if "video" in fields:
            out.frames["latents"] = self._latents(fields["video"], device)
        if "caption" in fields:
            context = self.model.encode_text(fields["caption"])
            out.clip["text"] = context.tokens.half().cpu()
            if context.pooled is not None:
                out.clip["pooled"] = context.pooled.half().cpu()
        return out

    def _latents(self, video: torch.Tensor, device: torch.device) -> torch.Tensor:
        """b f c h w; frames are made floats a few at a time."""
        frames = video.flatten(0, 1)  # (b f) 3 H W
        chunk = max(1, _at_once(device) // (frames.shape[2] * frames.shape[3]))
        parts = [
            self.model.encode((part.to(device).float() / 127.5 - 1)[None], chunk=chunk)[0].half().cpu()
            for part in frames.split(chunk)
        ]
        return torch.cat(parts).unflatten(0, video.shape[:2])


class LatentCache:
    """A split's clips as arrays in one folder, which an encoder prepared: those of frames (all stored ones,
    clips end to end), such as ``latents``, and those of clips, such as ``text``; float16 what is real.

    Windows are cut from the cached frames, so that one cache serves every epoch; mirrored clips cannot come
    from it. Fields that were needed and that the encoder left as they are come from the shards.
    """

    def __init__(self, folder: Path, clips: Clips) -> None:
        self.folder, self.window, self.seed, self.rows = folder, clips.window, clips.seed, clips.rows
        facts = json.loads((folder / "facts.json").read_text())
        self.ids, self.captions, self.starts = facts["ids"], facts["captions"], facts["starts"]
        self.frames = frozenset(facts.get("frames", ["latents"]))
        self.arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in facts["arrays"]
        }
        kept = frozenset(FIELDS) - set(self.arrays)
        self.raw = Needs(clips.needs.required & kept, clips.needs.optional & kept)
        self.reader = clips.reader.reading(self.raw)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: tuple[int, int]) -> Clip:
        epoch, index = at
        start, end = self.starts[index], self.starts[index + 1]
        frames = slice(0, 0, 1)
        if end > start:
            rng = clip_rng(self.seed, self.ids[index], epoch)
            frames, _ = self.window.cut(end - start, f"cached sample {self.ids[index]!r}", rng)
        raw = self.reader[self.rows[index]].fields if self.raw.names else {}
        prepared = {
            name: np.array(array[start:end][frames] if name in self.frames else array[index])
            for name, array in self.arrays.items()
        }
        return Clip(
            (self.ids[index], epoch),
            self.captions[index],
            {},
            at=numbers(frames),
            fields=windowed(raw, frames, mirror=False) | prepared,
            per_frame=per_frame(raw) | self.frames,
        )

    @staticmethod
    def open_or_build(
        root: Path,
        name: str,
        clips: Clips,
        encoder: Encoder,
        device: torch.device,
        build: bool,
        wait_seconds: float = WAIT_SECONDS,
    ) -> LatentCache:
        """The cache of ``clips`` under ``root``; written to a temporary folder and renamed, so a killed run
        leaves none that looks whole.

        One process builds; the others (``build=False``) wait for it, if srun or torchrun started them at the
        same time.
        """
        if clips.window.flip:
            raise ValueError(
                "data.window.flip cannot be used with data.cache: cached latents hold one orientation; turn "
                "one of them off"
            )
        facts = [encoder.fingerprint(), clips.reader.content_hash, list(clips.rows), 1]
        if clips.needs != Needs():  # what every cache held before there were others has the name it had
            facts.append(clips.needs.names)
        key = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
        folder = root / f"{name}-{key}"
        if not (folder / "facts.json").is_file():
            if build:
                _build(folder, clips, encoder, device)
            else:
                _await(folder, wait_seconds)
        return LatentCache(folder, clips)


def _await(folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not (folder / "facts.json").is_file():
        if time.monotonic() > end:
            raise ValueError(
                f"latent cache {folder} was to be written by rank 0 and is not there after "
                f"{seconds / 60:.0f} min; "
                "set data.cache_dir to a folder that all ranks share, or build the cache first with a run "
                "of one process"
            )
        time.sleep(min(1.0, seconds / 10))


@torch.no_grad()
def _build(folder: Path, clips: Clips, encoder: Encoder, device: torch.device) -> None:
    temporary = temporary_of(folder)
    for gone in remove_abandoned(folder.parent):
        log.info("removed %s, which a process that is gone left unfinished", gone)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    ids, captions, starts = [], [], [0]
    arrays: dict[str, GrowingArray] = {}
    frames: list[str] = []
    began = told = time.monotonic()
    with ExitStack() as files:
        for samples in _groups(clips, _at_once(device)):
            prepared = encoder.prepare(_stacked(samples, clips.needs), device)
            names = [*prepared.frames, *prepared.clip]
            if arrays and set(names) != set(arrays):
                raise ValueError(
                    f"sample {samples[0].id!r} was prepared as {', '.join(names)} where those before it were "
                    f"as {', '.join(arrays)}; require of every sample what is prepared, or set "
                    "data.cache=false"
                )
            ids += [s.id for s in samples]
            captions += [s.caption or "" for s in samples]
            starts += (starts[-1] + np.cumsum([s.num_frames for s in samples])).tolist()
            frames = list(prepared.frames)
            for name, rows in _rows(prepared):
                if name not in arrays:
                    arrays[name] = files.enter_context(GrowingArray(temporary / f"{name}.npy"))
                arrays[name].append(rows)
            if (now := time.monotonic()) - told >= _TELL_EVERY_SECONDS:
                told, left = now, (now - began) / len(ids) * (len(clips.rows) - len(ids))
                log.info(
                    "encoding clips, once for all epochs: %d of %d, %.1f min left",
                    len(ids),
                    len(clips.rows),
                    left / 60,
                )
    facts = {"ids": ids, "captions": captions, "starts": starts, "arrays": list(arrays), "frames": frames}
    (temporary / "facts.json").write_text(json.dumps(facts))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _at_once(device: torch.device) -> int:
    return _PIXELS_AT_ONCE.get(device.type, _PIXELS_AT_ONCE["cuda"])


def _groups(clips: Clips, most_pixels: int) -> Iterator[list[Sample]]:
    """Samples of one shape by what is encoded together, so that memory holds no more: long clips come one by
    one, stills together."""
    group: list[Sample] = []
    num_pixels = 0
    for row in clips.rows:
        sample = clips.reader[row]
        if group and (num_pixels >= most_pixels or _shapes(group[0]) != _shapes(sample)):
            yield group
            group, num_pixels = [], 0
        group.append(sample)
        num_pixels += max(math.prod(shape[:3]) for shape in [*_shapes(sample).values(), (1,)])
    if group:
        yield group


def _arrays(sample: Sample) -> dict[str, np.ndarray]:
    return sample.fields if sample.video is None else {"video": sample.video, **sample.fields}


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in _arrays(sample).items()}


def _stacked(samples: list[Sample], needs: Needs) -> dict[str, Any]:
    """Fields of clips of one shape as an encoder takes them: b ... each, pictures with channels as
    b f c h w."""
    out: dict[str, Any] = {}
    for name in _arrays(samples[0]):
        kind = VIDEO if name == "video" else FIELDS[name]
        arrays = [kind.over(_arrays(s)[name], s.num_frames) for s in samples]
        out[name] = torch.from_numpy(np.stack([kind.channels_first(array) for array in arrays]))
    if "caption" in needs.names:
        out["caption"] = [s.caption or "" for s in samples]
    return out


def _rows(prepared: Prepared) -> Iterator[tuple[str, np.ndarray]]:
    """Rows for the arrays of a cache, by name: of all frames of the clips, or of the clips."""
    for name, values in [(n, v.flatten(0, 1)) for n, v in prepared.frames.items()] + [*prepared.clip.items()]:
        yield name, (values.half() if values.is_floating_point() else values).cpu().numpy()
