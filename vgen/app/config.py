"""The border with Hydra: recipes and settings are offered as schemas, typed values come back. Below this line
there is no DictConfig."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vgen.app.folders import refuse_unsafe_name
from vgen.app.loading import Backbone
from vgen.app.refusals import unknown_key
from vgen.app.secrecy import refuse_secrets, without_passwords
from vgen.app.stacks import StackEntry
from vgen.app.trust import guarded
from vgen.formats.adapter import plain
from vgen.methods import Recipe, catalogue
from vgen.resources import conf_dir
from vgen.spec import Choice, field, spec
from vgen.training.corpus import Corpus
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings

_T = TypeVar("_T")
_BY_KNOBS = "number_by_knobs"
"""Resolves to a number of the method's training when its knobs are known."""
_HYDRAS = ("hydra", "_dummy_empty_config_.yaml")
"""Hydra's own group, in which its plugins store too, and its own file."""


class Resume(Choice):
    AUTO = "auto"
    NEVER = "never"


@spec
class RunSettings:
    """``name`` empty means method and time; a run's folder is ``dir/name`` and is never overwritten. A name
    is one folder, so that no experiment file writes elsewhere.

    ``init_from`` (a run, an ``adapter.safetensors`` or ``shipped``) gives the weights that learning starts
    from; all else begins anew.
    """

    name: str = ""
    dir: str = "runs"
    seed: int = 0
    resume: Resume = Resume.NEVER
    init_from: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"run.seed must lie in 0..{2**32 - 1}, got {self.seed}; 0 is the default")
        refuse_unsafe_name(self.name, "run.name")


@spec
class TrainRun:
    """What ``vgen train`` is told; the adapters of ``stack`` and the low-rank layers of ``loras`` stay
    frozen beneath what is trained."""

    method: Recipe = MISSING
    backbone: Backbone = field(default_factory=Backbone)
    data: Corpus = field(default_factory=Corpus)
    optim: Optimisation = field(default_factory=Optimisation)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    callbacks: SampleSettings = field(default_factory=SampleSettings)
    run: RunSettings = field(default_factory=RunSettings)
    stack: list[StackEntry] = field(default_factory=list)
    loras: list[StackEntry] = field(default_factory=list)


def offer_training() -> None:
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainRun)
    for name, recipe in catalogue().items():
        store.store(group="method", name=name, node=recipe)
        numbers: dict[str, Any] = recipe().training().settings()
        if recipe.training_by_knobs:
            OmegaConf.register_new_resolver(_BY_KNOBS, _number, replace=True)
            numbers = {
                section: {key: f"${{{_BY_KNOBS}:{section}.{key}}}" for key in values}
                for section, values in numbers.items()
            }
        store.store(group="numbers", name=name, node=numbers, package="_global_")


def _number(key: str, *, _root_: DictConfig) -> float | str:
    """A number of the chosen method's training, by its knobs; where these are refused, which is told later,
    that of its own knobs."""
    try:
        recipe = OmegaConf.to_object(_root_.method)
    except ValueError:
        kind = OmegaConf.get_type(_root_.method)
        assert kind is not None  # a recipe's
        recipe = kind()
    assert isinstance(recipe, Recipe)
    section, _, name = key.partition(".")
    return recipe.training().settings()[section][name]


@contextmanager
def offered(offer: Callable[[], None]) -> Iterator[None]:
    """What ``offer`` stores, and Hydra's own, is all that is found within, and it is taken back: verbs that
    share a process know nothing of one another's groups, nor of a caller's.

    A group of another verb would turn a key of that name into a choice.
    """
    repo = ConfigStore.instance().repo
    aside = {name: repo.pop(name) for name in list(repo) if name not in _HYDRAS}
    offer()
    own = [name for name in repo if name not in _HYDRAS]
    try:
        yield
    finally:
        for name in own:
            del repo[name]
        repo.update(aside)


def folder_of(verb: str) -> Path:
    """Where the settings of a verb begin; those of a training and of its plan are the same."""
    return conf_dir().absolute() if verb in ("train", "plan") else conf_dir().absolute() / verb


def run_hydra(
    verb: str,
    offer: Callable[[], None],
    action: Callable[[Any, dict[str, Any]], Any],
    failed: Callable[[Exception], Any] | None = None,
) -> None:
    """Compose what ``offer`` stores and the command line says; hand over the typed value and the resolved
    plain data.

    ``action`` runs after Hydra for a single job (Hydra would add lines of its own to every error), within it
    under --multirun. ``failed`` says what a job of a multirun is worth that has failed; without it the first
    one ends them all.
    """
    taken: list[DictConfig] = []
    unresolved: list[OmegaConfBaseException] = []
    multirun = any(a in sys.argv for a in ("--multirun", "-m"))

    def job(cfg: DictConfig) -> Any:
        try:
            OmegaConf.resolve(cfg)  # afterwards nobody knows what ${hydra:...} stands for
        except OmegaConfBaseException as error:
            if multirun:
                raise
            return unresolved.append(error)
        if multirun:
            return _act(cfg, action) if failed is None else _tried(cfg, action, failed)
        return taken.append(cfg)

    with guarded(), offered(offer):
        hydra.main(version_base="1.3", config_path=str(folder_of(verb)), config_name=verb)(job)()
    for error in unresolved:
        raise error
    for cfg in taken:
        _act(cfg, action)


def _act(cfg: DictConfig, action: Callable[[Any, dict[str, Any]], Any]) -> Any:
    return action(typed(cfg), without_passwords(plain(OmegaConf.to_container(cfg, resolve=True))))


def _tried(
    cfg: DictConfig, action: Callable[[Any, dict[str, Any]], Any], failed: Callable[[Exception], Any]
) -> Any:
    try:
        return _act(cfg, action)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other jobs go on
        return failed(error)


def typed(cfg: DictConfig) -> Any:
    """The settings by their types, where none is missing, added or a secret. What a section refuses is told
    by its keys from the top: it knows only its own name."""
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise ValueError(
            f"{', '.join(sorted(missing))} must be given on the command line or in an experiment"
        )
    _refuse_added(cfg)
    refuse_secrets(plain(OmegaConf.to_container(cfg, resolve=True)))
    try:
        return OmegaConf.to_object(cfg)
    except ValueError as error:
        path = _refusing(cfg, str(error))
        told = re.sub(rf"(?<![\w.]){path.rpartition('.')[2]}\.(?=\w)", f"{path}.", str(error))
        if told == str(error):
            raise
        raise ValueError(told) from error


def _refusing(cfg: DictConfig, sentence: str, path: str = "") -> str:
    """The innermost section that refuses its values with this sentence."""
    for name, value in cfg.items():
        if isinstance(value, DictConfig):
            try:
                OmegaConf.to_object(value)
            except ValueError as error:
                if str(error) == sentence:
                    return _refusing(value, sentence, f"{path}.{name!s}".lstrip("."))
    return path


def _refuse_added(cfg: DictConfig, section: str = "") -> None:
    """Hydra's ``+key=value`` adds keys where there are none, and the types behind the settings have no room
    for them."""
    owner = OmegaConf.get_type(cfg)
    known = [f.name for f in fields(owner)] if owner is not None and is_dataclass(owner) else list(cfg)
    for name in cfg:
        if name not in known:
            raise ValueError(unknown_key(f"{section}{name!s}", known))
        if isinstance(value := cfg[name], DictConfig):
            _refuse_added(value, f"{section}{name!s}.")


def job_suffix() -> str:
    """Tells the jobs of a multirun apart."""
    mode = HydraConfig.get().mode if HydraConfig.initialized() else None
    if mode is not None and mode.name == "MULTIRUN":
        return f"-{HydraConfig.get().job.num}"
    return ""
