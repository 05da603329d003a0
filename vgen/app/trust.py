"""What settings may ask Hydra for, wherever they come from: a file of another person's is data, and neither
names a program nor a place outside.

Hydra calls what ``_target_`` names and has a list of what it must not be; this is a list of what it may be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vgen.app.secrecy import refuse_secret_variables, without_passwords

_CALLED = ("sweeper", "launcher", "callbacks")
"""Sections whose ``_target_`` Hydra calls."""
_MAY_BE_CALLED = re.compile(
    r"hydra\._internal\.core_plugins\.basic_(launcher\.BasicLauncher|sweeper\.BasicSweeper)"
    r"|hydra_plugins\.hydra_optuna_sweeper\.optuna_sweeper\.OptunaSweeper"
    r"|optuna\.samplers\.\w+Sampler"
)
_PLACES = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir")
_STUDIES = "hydra.sweeper.storage"
"""Where Optuna's sweeper keeps its studies: a file or a server."""
_ITSELF = "vgen instantiates nothing that settings name; remove it, or the file if you don't know it"


@contextmanager
def guarded() -> Iterator[None]:
    """Meanwhile every configuration that Hydra composes is refused where it asks for more than a run
    needs."""
    if any(argument.startswith("--experimental-rerun") for argument in sys.argv):
        raise ValueError(
            "--experimental-rerun reads a pickle, which can execute code; repeat a run by its config.yaml"
        )
    door: Any = ConfigLoaderImpl  # through which every composition goes; Hydra has no public one
    compose: Callable[..., DictConfig] = door.load_configuration

    def checked(loader: ConfigLoaderImpl, *args: Any, **named: Any) -> DictConfig:
        settings = compose(loader, *args, **named)
        refuse_programs(settings)
        return settings

    refuse_secret_variables()
    door.load_configuration = checked
    try:
        yield
    finally:
        door.load_configuration = compose


def refuse_programs(settings: DictConfig) -> None:
    """Raises ValueError where composed settings name something to call, to log to or to write outside."""
    raw = OmegaConf.to_container(settings, resolve=False)
    assert isinstance(raw, dict)
    own = raw.get("hydra") or {}
    _refuse_targets({name: part for name, part in raw.items() if name != "hydra"}, "", allowed=False)
    _refuse_targets(own, "hydra.", allowed=True)
    for name in _CALLED:
        section = OmegaConf.select(settings, f"hydra.{name}")
        if OmegaConf.is_config(section):
            called = OmegaConf.to_container(section, resolve=True)
            _refuse_targets(called, f"hydra.{name}.", allowed=True)
    if OmegaConf.select(settings, "hydra.callbacks"):
        raise ValueError(f"hydra.callbacks would run programs of their own; {_ITSELF}")
    if OmegaConf.select(settings, "hydra.job.env_set"):
        raise ValueError(f"hydra.job.env_set would change the environment of every process; {_ITSELF}")
    for name in ("job_logging", "hydra_logging"):
        _refuse_handlers(own.get(name), f"hydra.{name}")
    for place in _PLACES:
        for read in (_as_written, _as_resolved):
            _refuse_outside(read(settings, f"hydra.{place}"), f"hydra.{place}")
    _refuse_studies_elsewhere(settings)


def _refuse_studies_elsewhere(settings: DictConfig) -> None:
    """A file of another person may not choose a data base outside; whoever types the command may."""
    if any(argument.lstrip("+").startswith(f"{_STUDIES}=") for argument in sys.argv):
        return
    for read in (_as_written, _as_resolved):
        place = read(settings, _STUDIES)
        if place is None:
            continue
        kind, found, path = str(place).partition("sqlite:///")
        if kind or not found:
            raise ValueError(
                f"{_STUDIES}={without_passwords(str(place))} names a server, in a file; type it on the "
                "command line if it is yours"
            )
        _refuse_outside(path, _STUDIES)


def _refuse_targets(value: Any, where: str, allowed: bool) -> None:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return
    target = value.get("_target_")
    if target is not None and not (allowed and _MAY_BE_CALLED.fullmatch(str(target))):
        raise ValueError(f"{where}_target_={target} names a program; {_ITSELF}")
    for name, part in value.items():
        _refuse_targets(part, f"{where}{name}.", allowed)


def _refuse_handlers(logging: Any, where: str) -> None:
    """A logging configuration may name classes and factories, which are called."""
    kept = {"version", "root", "disable_existing_loggers"}
    if logging is None:
        return
    if not isinstance(logging, dict) or set(logging) - kept or logging.get("root") is not None:
        raise ValueError(f"{where} would set up loggers by name; vgen logs by itself: leave it at none")


def _as_written(settings: DictConfig, key: str) -> Any:
    section, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(settings, section)
    if node is None:
        return None
    written: Any = OmegaConf.to_container(node, resolve=False)
    return written.get(name)


def _as_resolved(settings: DictConfig, key: str) -> Any:
    """None where a job alone can know it, as its number."""
    try:
        return OmegaConf.select(settings, key)
    except OmegaConfBaseException:
        return None


def _refuse_outside(place: Any, where: str) -> None:
    path = PurePath(str(place or "."))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}={place} leads out of the folder that vgen runs in; give one below it")
