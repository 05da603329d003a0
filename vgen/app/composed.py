"""The settings of a verb from Python values, composed as the command line composes them: the same defaults,
the same choices, the same refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict

from vgen.app.config import folder_of, offered, typed
from vgen.app.early import check
from vgen.app.refusals import refusal
from vgen.app.spellings import CHOICES
from vgen.app.trust import guarded
from vgen.methods import Recipe, name_of

_T = TypeVar("_T")


def settings(verb: str, schema: type[_T], offer: Callable[[], None], keys: Mapping[str, Any]) -> _T:
    """What ``vgen VERB`` would be told by these keys: ``data={"path": "clips"}`` is ``data.path=clips``, and
    so is ``**{"data.path": "clips"}``.

    Raises ValueError with the command line's own sentence.
    """
    return of_words(verb, schema, offer, list(words_of(verb, keys)))


def of_words(verb: str, schema: type[_T], offer: Callable[[], None], words: list[str]) -> _T:
    """What ``vgen VERB WORDS`` would be told. Raises ValueError likewise."""
    if sentence := check(verb, words):
        raise ValueError(sentence)
    try:
        with offered(offer):
            found = typed(_composed(verb, words))
    except Exception as error:
        sentence = refusal(error)
        if sentence is None or sentence == str(error):
            raise
        raise ValueError(sentence) from error
    assert isinstance(found, schema)
    return found


def _composed(verb: str, words: list[str]) -> DictConfig:
    """Resolved, without Hydra's own section; Hydra is left as it was found."""
    state: Any = HydraConfig.instance()
    before = state.cfg
    with guarded(), initialize_config_dir(str(folder_of(verb)), version_base="1.3"):
        cfg = compose(verb, words, return_hydra_config=True)
        try:
            state.set_config(cfg)
            with open_dict(cfg):
                del cfg["hydra"]
            OmegaConf.resolve(cfg)
        finally:
            state.cfg = before
    return cfg


def words_of(verb: str, keys: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """One word of a command line for each value."""
    for name, value in keys.items():
        key = f"{section}{name}"
        if isinstance(value, Recipe):
            yield f"{key}={name_of(value)}"
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping):
            yield from words_of(verb, value, f"{key}.")
        elif (verb, key) == ("train", "backbone") and value not in CHOICES:
            yield from ("backbone=folder", f"backbone.path={_spelt(value)}")
        else:
            yield f"{key}={_spelt(value)}"


def _spelt(value: Any) -> str:
    """A value as Hydra reads it."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case int() | float():
            return repr(value)
        case str() | Path():
            return QuotedString(str(value), Quote.double).with_quotes()
        case Mapping():
            return "{" + ",".join(f"{name}:{_spelt(part)}" for name, part in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_spelt, value)) + "]"
        case _:
            raise ValueError(f"a setting is text, a number, a list or a section, got {value!r}")
