"""Latents and text embeddings of frozen encoders, computed once. A cache carries a fingerprint and is refused
where it does not fit."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from vgen.backbones.image_model import ImageModel
from vgen.data.clips import Clip, Clips, clip_rng
from vgen.data.npy import GrowingArray
from vgen.data.sample import Sample

log = logging.getLogger(__name__)
_TELL_EVERY_SECONDS = 15.0
_PIXELS_AT_ONCE = {"cuda": 2**23, "cpu": 2**18}
"""What is read before it is encoded, by device: 32 pictures of 512 px or 2048 of 64 px for a GPU, 64 of 64 px
for a CPU."""
WAIT_SECONDS = 3600.0


def encoders_fingerprint(model: ImageModel) -> str:
    """Hash of every weight of the VAE and the text encoders, and of the latent scale."""
    digest = hashlib.blake2b(
        json.dumps([model.vae.config["scaling_factor"], model.tokenizer.model_max_length]).encode(),
        digest_size=16,
    )
    for module in (model.vae, *model.text_encoders):
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


class LatentCache:
    """A split's clips as float16 arrays in one folder: ``latents`` (all stored frames, clips end to end),
    ``text`` and perhaps ``pooled``.

    Windows are cut from the cached frames, so that one cache serves every epoch; mirrored clips cannot come
    from it.
    """

    def __init__(self, folder: Path, clips: Clips) -> None:
        self.folder, self.window, self.seed, self.rows = folder, clips.window, clips.seed, clips.rows
        facts = json.loads((folder / "facts.json").read_text())
        self.ids, self.captions, self.starts = facts["ids"], facts["captions"], facts["starts"]
        self.arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in facts["arrays"]
        }
        self.reader = clips.reader

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: tuple[int, int]) -> Clip:
        epoch, index = at
        start, end = self.starts[index], self.starts[index + 1]
        frames, _ = self.window.cut(
            end - start, f"cached sample {self.ids[index]!r}", clip_rng(self.seed, self.ids[index], epoch)
        )
        pooled = np.array(self.arrays["pooled"][index]) if "pooled" in self.arrays else None
        latents = np.array(self.arrays["latents"][start:end][frames])
        text = np.array(self.arrays["text"][index])
        return Clip(
            (self.ids[index], epoch), self.captions[index], {}, latents=latents, text=text, pooled=pooled
        )

    @staticmethod
    def open_or_build(
        root: Path,
        name: str,
        clips: Clips,
        model: ImageModel,
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
        key = hashlib.blake2b(
            json.dumps(
                [encoders_fingerprint(model), clips.reader.content_hash, clips.rows.start, clips.rows.stop, 1]
            ).encode(),
            digest_size=8,
        ).hexdigest()
        folder = root / f"{name}-{key}"
        if not (folder / "facts.json").is_file():
            if build:
                _build(folder, clips, model, device)
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
def _build(folder: Path, clips: Clips, model: ImageModel, device: torch.device) -> None:
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for encoder in (model.vae, *model.text_encoders):
        encoder.to(device)
    ids, captions, starts = [], [], [0]
    arrays: dict[str, GrowingArray] = {}
    began = told = time.monotonic()
    with ExitStack() as files:
        for samples in _groups(clips, _at_once(device)):
            ids += [s.id for s in samples]
            captions += [s.caption for s in samples]
            starts += (starts[-1] + np.cumsum([len(s.video) for s in samples])).tolist()
            for name, rows in _encoded(samples, model, device):
                if name not in arrays:
                    arrays[name] = files.enter_context(GrowingArray(temporary / f"{name}.npy"))
                arrays[name].append(rows.half().cpu().numpy())
            if (now := time.monotonic()) - told >= _TELL_EVERY_SECONDS:
                told, left = now, (now - began) / len(ids) * (len(clips.rows) - len(ids))
                log.info(
                    "encoding clips, once for all epochs: %d of %d, %.1f min left",
                    len(ids),
                    len(clips.rows),
                    left / 60,
                )
    (temporary / "facts.json").write_text(
        json.dumps({"ids": ids, "captions": captions, "starts": starts, "arrays": list(arrays)})
    )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _at_once(device: torch.device) -> int:
    return _PIXELS_AT_ONCE.get(device.type, _PIXELS_AT_ONCE["cuda"])


def _groups(clips: Clips, most_pixels: int) -> Iterator[list[Sample]]:
    """Samples by what is encoded together, so that memory holds no more: long clips come one by one, stills
    together."""
    group: list[Sample] = []
    num_pixels = 0
    for row in clips.rows:
        sample = clips.reader[row]
        group.append(sample)
        num_pixels += sample.video[..., 0].size
        if num_pixels >= most_pixels:
            yield group
            group, num_pixels = [], 0
    if group:
        yield group


def _encoded(
    samples: list[Sample], model: ImageModel, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Rows for the arrays of a cache, by name; frames are made floats a few at a time."""
    frames = torch.from_numpy(np.concatenate([s.video for s in samples]))
    chunk = max(1, _at_once(device) // (frames.shape[1] * frames.shape[2]))
    for part in frames.split(chunk):
        yield (
            "latents",
            model.encode((part.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1)[None], chunk=chunk)[0],
        )
    context = model.encode_text([s.caption for s in samples])
    yield "text", context.tokens
    if context.pooled is not None:
        yield "pooled", context.pooled
