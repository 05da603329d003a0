"""What can be said of a command line before torch is imported: in tenths of a second, not in ten.

Only what is surely wrong is refused here; everything else is left to Hydra and to the types.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from vgen.app.refusals import listed

KEYS = Path(__file__).with_name("keys.json")
FLAGS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
)
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc", "--info", "-i"),
)
"""Those of Hydra, with a value of their own and without."""
MEANT = {
    "lr": ("learning_rate", "learningrate", "step_size"),
    "warmup_steps": ("lr_warmup_steps", "warmup", "num_warmup_steps"),
    "grad_clip": ("max_grad_norm", "gradient_clip_val", "clip_grad", "gradient_clipping"),
    "ema_decay": ("ema", "use_ema"),
    "kind": ("optimizer", "optimiser"),
    "max_steps": ("max_train_steps", "num_train_steps", "train_steps", "iterations", "steps", "epochs"),
    "num_steps": ("num_inference_steps", "inference_steps", "sampling_steps", "steps", "ddim_steps"),
    "accumulate": ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum"),
    "precision": ("mixed_precision", "fp16", "bf16", "dtype", "amp"),
    "devices": ("gpus", "num_gpus", "num_processes", "n_gpus"),
    "checkpoint_every_steps": ("checkpointing_steps", "save_every", "save_steps", "checkpoint_every"),
    "val_every_steps": ("validation_steps", "eval_every", "eval_steps"),
    "batch_size": ("train_batch_size", "bs", "batch", "batchsize"),
    "size_px": ("resolution", "size", "image_size", "width", "height", "sample_size"),
    "width_px": ("width", "resolution", "size"),
    "height_px": ("height", "resolution", "size"),
    "num_frames": ("frames", "n_frames", "video_length", "sample_n_frames", "length"),
    "stride_frames": ("stride", "sample_stride", "frame_stride"),
    "num_workers": ("workers", "dataloader_num_workers"),
    "path": ("dataset", "train_data_dir", "data_dir", "dataset_path", "data_path", "video_folder"),
    "guidance": ("guidance_scale", "cfg", "cfg_scale", "scale"),
    "solver": ("scheduler", "sampler", "sampling_method"),
    "negative": ("negative_prompt", "neg_prompt", "n_prompt"),
    "prompt_file": ("prompts", "prompts_file"),
    "num_clips": ("num_videos", "num_samples", "num_videos_per_prompt"),
    "adapter": ("checkpoint", "ckpt", "lora", "motion_module", "model", "weights"),
    "backbone": ("model", "pretrained_model_name_or_path", "base_model", "unet", "model_path"),
    "video": ("input", "video_path", "input_video"),
    "videos": ("video", "input", "folder"),
    "out": ("output", "output_dir", "outdir", "save_dir", "out_dir"),
    "name": ("run_name", "experiment_name", "exp_name"),
    "resume": ("resume_from_checkpoint", "resume_from"),
    "init_from": ("resume_from", "finetune_from", "pretrained"),
    "logger": ("wandb", "report_to", "tracker", "log_with"),
    "seed": ("random_seed", "rng_seed", "manual_seed"),
}
"""The last word of a key, and what others call it."""
FOLDERS = {"train": ("data.path", "data.val_path"), "evaluate": ("videos",)}
"""Keys whose value is a folder that has to be there."""
_PLAIN = re.compile(r"[^\[\]{}$,\"'=]+")


def check(verb: str, arguments: Sequence[str]) -> str | None:
    """The one sentence that refuses these arguments; None where nothing is surely wrong."""
    known = json.loads(KEYS.read_text(encoding="utf-8")).get(verb, [])
    value_of_flag = False
    for argument, following in pairwise([*arguments, ""]):
        if value_of_flag:
            value_of_flag = False
            continue
        if argument.startswith("-"):
            value_of_flag = argument in FLAGS_WITH_VALUE
            sentence = None if value_of_flag or _is_flag(argument) else _dashed(argument, following, known)
        else:
            sentence = _assigned(argument, known) or _folder(verb, argument)
        if sentence:
            return sentence
    return None


def _is_flag(argument: str) -> bool:
    return argument.partition("=")[0] in (*FLAGS, *FLAGS_WITH_VALUE)


def _dashed(argument: str, following: str, known: Sequence[str]) -> str:
    """--prompt "a cat", --data.path=x, --learning-rate 1e-4: as other programs write it."""
    bare, _, value = argument.lstrip("-").partition("=")
    key = bare.replace("-", "_")
    names = [key] if key in known else offered(key, known)
    if not names:
        return f"{argument} is no option; keys are written KEY=VALUE without dashes, and --help lists them"
    value = value or ("" if following.startswith("-") or "=" in following else following) or "VALUE"
    return f"{argument} is no option; keys are written without dashes: {names[0]}={shlex.quote(value)}"


def _assigned(argument: str, known: Sequence[str]) -> str | None:
    """A key that no setting has, or a word that is no key=value."""
    key, given, _ = argument.partition("=")
    bare = key.lstrip("+~").partition("@")[0]
    if not given and not argument.startswith("~"):
        return f"'{argument}' is no key=value; write KEY=VALUE, and quote what holds blanks: prompt=\"a cat\""
    if bare.startswith("hydra") or "/" in bare or _is_known(bare, known):
        return None
    names = offered(bare, known)
    section = bare.rpartition(".")[0]
    if section.partition(".")[0] == "method":
        told = f"; did you mean {' or '.join(names)}?" if names else ";"
        return f"{bare} is not a key of any method{told} 'vgen show METHOD' lists those of one"
    beside = [name for name in known if name.rpartition(".")[0] == section] or _top(known)
    told = f"; did you mean {' or '.join(names)}?" if names else ";"
    where = section if any(name.startswith(f"{section}.") for name in known) else "the top level"
    return (
        f"{bare} is not a key{told} {where} has {listed(sorted(name for name in beside if name[-1] != '*'))}"
    )


def _is_known(key: str, known: Sequence[str]) -> bool:
    return key in known or any(key.startswith(name[:-1]) for name in known if name.endswith(".*"))


def _top(known: Sequence[str]) -> list[str]:
    return [name for name in known if "." not in name]


def offered(key: str, known: Sequence[str], most: int = 3) -> list[str]:
    """Known keys that may be meant: spelt nearly so, of the same last word or of the same meaning; those of
    the same section, and short ones, first."""
    section, _, word = key.rpartition(".")
    words = {word, *(name for name, others in MEANT.items() if word.lower() in others)}
    known = [name for name in known if not name.endswith(".*")]
    same = [name for name in known if name.rpartition(".")[2] in words]
    same.sort(key=lambda name: (name.rpartition(".")[0] != section, name.count("."), name))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    return list(dict.fromkeys([*near, *same]))[:most]


def _folder(verb: str, argument: str) -> str | None:
    """data.path=vidoes: no folder of that name, where there has to be one."""
    key, _, value = argument.partition("=")
    if key not in FOLDERS.get(verb, ()) or not _PLAIN.fullmatch(value):
        return None
    path = Path(value)
    if path.is_dir():
        return None
    if path.exists():
        return f"{key}={value} is a file, not a folder; give the folder that it lies in"
    parent = path.parent
    beside = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    told = (
        f"; did you mean {parent / near[0]}?" if near else f", seen from {Path.cwd()}; give one that is there"
    )
    return f"{key}={value} is no folder{told}"
