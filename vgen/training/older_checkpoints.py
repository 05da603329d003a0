"""Checkpoints of vgen's first format, torch archives of Lightning's state, made into folders. They are read
as data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vgen.formats import state_file
from vgen.formats.tensor_file import Entry
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import AVERAGES, MOMENTS, WEIGHTS, State
from vgen.training.moments import KEYS, STEP
from vgen.training.muon import as_parameter, is_matrix
from vgen.training.optimisation import Optimiser

Tensors = dict[str, Tensor]


def convert(path: Path) -> Path:
    """Write the folder of ``step-N.ckpt`` beside it, and return it; the file stays.

    Raises ValueError where the file is DeepSpeed's, damaged, or could only be read by running code.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is DeepSpeed's own and can only be read by running what it carries; start a new run "
            "from the run's last adapter with run.init_from"
        )
    older, _ = state_file.read(path)
    try:
        shelves, state = _content(older)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no checkpoint of a vgen run (it lacks {error})") from error
    folder = path.with_suffix("")
    room.write(
        folder,
        {file: {name: Entry.of(v) for name, v in shelf.items()} for file, shelf in shelves.items()},
        state,
    )
    return folder


def _content(older: dict[str, Any]) -> tuple[dict[str, Tensors], State]:
    weights = {name.removeprefix("parts."): value for name, value in older["state_dict"].items()}
    optimizer = older["optimizer_states"][0]
    moments, steps = _moments(optimizer, weights)
    shelves = {WEIGHTS: weights, MOMENTS: moments}
    average = older["callbacks"].get("Ema")
    if average:
        shelves[AVERAGES] = average["average"]
    step, record, schedule = older["global_step"], older["record"], older["lr_schedulers"][0]
    scaler = older.get("MixedPrecision")
    state = State(
        step=step,
        samples=step * record["global_batch"],
        record=record,
        optimizer=(Optimiser.MUON if "parts" in optimizer else Optimiser.ADAMW).value,
        optimizer_steps=steps,
        scheduler={name: schedule[name] for name in ("last_epoch", "base_lrs", "_last_lr")},
        ema_updates=average["num_updates"] if average else None,
        scaler=scaler and {"scale": scaler["scale"], "steps_since": scaler["_growth_tracker"]},
    )
    return shelves, state


def _moments(optimizer: dict[str, Any], weights: Tensors) -> tuple[Tensors, dict[str, int]]:
    """By name: torch counts the parameters of an optimiser, in the order of the weights."""
    moments: Tensors = {}
    steps: dict[str, int] = {}
    for names, part in _parts(optimizer, weights):
        for index, held in part["state"].items():
            name = names[index]
            if STEP in held:
                steps[name] = int(held[STEP])
            for key in [key for key in KEYS if key in held]:
                moments[f"{key}.{name}"] = as_parameter(held[key], weights[name])
    return moments, steps


def _parts(optimizer: dict[str, Any], weights: Tensors) -> list[tuple[list[str], dict[str, Any]]]:
    """Each optimiser's state with the names of what it steps: Muon's has two."""
    if "parts" not in optimizer:
        return [(list(weights), optimizer)]
    matrices = [name for name, value in weights.items() if is_matrix(value)]
    rest = [name for name in weights if name not in set(matrices)]
    groups = [names for names in (matrices, rest) if names]
    return list(zip(groups, optimizer["parts"], strict=True))
