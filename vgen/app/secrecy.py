"""Secrets stay out of what is written: settings end in configurations, checkpoints and published cards."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LEAST = 8
"""Letters of a secret that is looked for; shorter ones are found in any text."""
_USER = re.compile(r"(?<=://)[^/\s]*@")


def looks_secret(name: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return _SECRET.search(name) is not None


def refuse_secret_variables() -> None:
    """``${oc.env:NAME}`` works as before but for secrets, which are refused by name."""
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)


_ABSENT = object()


def _variable(name: str, default: Any = _ABSENT) -> Any:
    if looks_secret(name):
        raise ValueError(
            f"${{oc.env:{name}}} names a secret, and settings are written to configurations, checkpoints "
            "and cards; remove it: what needs the secret reads the environment by itself"
        )
    value = os.environ.get(name, default)
    if value is _ABSENT:
        raise ValueError(f"${{oc.env:{name}}} is not set; set it, or write ${{oc.env:{name},DEFAULT}}")
    return value


def without_passwords(settings: Any) -> Any:
    """Plain data, with addresses that have lost user and password."""
    if isinstance(settings, dict):
        return {name: without_passwords(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [without_passwords(value) for value in settings]
    return _USER.sub("", settings) if isinstance(settings, str) else settings


def refuse_secrets(settings: Any, environment: Mapping[str, str] = os.environ) -> None:
    """Raises ValueError where a value of plain data holds what a secret environment variable holds."""
    secrets = {value: name for name, value in environment.items() if _is_secret(name, value)}
    _search(settings, secrets, "")


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable holds a secret, not the place of one."""
    return looks_secret(name) and len(value) >= _LEAST and not os.path.exists(value)


def _search(value: Any, secrets: Mapping[str, str], where: str) -> None:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, part in value.items():
            _search(part, secrets, f"{where}.{name}".lstrip("."))
    elif isinstance(value, str):
        found = next((name for secret, name in secrets.items() if secret in value), None)
        if found is not None:
            raise ValueError(
                f"{where} holds the secret of the environment variable {found}, and settings are written "
                "to configurations, checkpoints and cards; take it out"
            )
