"""Memory that does not suffice: what would fit, in one sentence."""

from __future__ import annotations

import torch

from vgen.training.corpus import Corpus
from vgen.training.strategies import Precision, Spread, TrainerSettings

_MAIN_MEMORY = ("can't allocate memory", "Unable to allocate", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU, or in main memory as torch and numpy say it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MAIN_MEMORY)


def out_of_memory(settings: TrainerSettings, corpus: Corpus, where: str) -> str:
    """What to set so that the same run needs less, the least change of its result first."""
    remedies = [*_same_result(settings, corpus), *_other_result(settings, corpus)]
    had = f" of {_gpu_gb():.1f} GiB on the GPU" if settings.on_gpu() else ""
    return (
        f"memory{had} does not suffice {where} with data.batch_size={corpus.batch_size} clips of "
        f"{corpus.window.num_frames} frames in {settings.precision.value}; set "
        f"{', or '.join(remedies) or 'a smaller image model, or more memory'}"
    )


def _same_result(settings: TrainerSettings, corpus: Corpus) -> list[str]:
    found = []
    if corpus.batch_size % 2 == 0:
        half, parts = corpus.batch_size // 2, settings.accumulate * 2
        found.append(f"data.batch_size={half} trainer.accumulate={parts} (the same steps in smaller parts)")
    if not settings.gradient_checkpointing:
        found.append("trainer.gradient_checkpointing=true (the same steps, slower)")
    if not settings.sharded and settings.world_size > 1:
        found.append(f"trainer.strategy={Spread.ZERO2.value}")
    return found


def _other_result(settings: TrainerSettings, corpus: Corpus) -> list[str]:
    found = []
    if settings.precision is Precision.FP32:
        found.append("trainer.precision=bf16")
    if corpus.window.num_frames > 1:
        found.append(f"data.window.num_frames={corpus.window.num_frames // 2}")
    return found


def _gpu_gb() -> float:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
