"""Where a run's figures go: always a CSV beside the run, and Weights & Biases online, offline or not at
all."""

from __future__ import annotations

import logging
import os
import random
import socket
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from vgen.spec import Choice, field, spec
from vgen.training import offline_runs

log = logging.getLogger(__name__)
ANSWER_SECONDS = 30.0  # a server that says nothing for so long is not waited for


class PatientCsv(CSVLogger):
    """Figures that a full disk refuses wait in memory: it is said once, and ends no training."""

    _refused = False

    def save(self) -> None:
        try:
            super().save()
        except OSError as error:
            if not self._refused:
                log.warning("figures are not written to %s for now (%s)", self.log_dir, error.strerror)
            self._refused = True
        else:
            self._refused = False


class WandbMode(Choice):
    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


@spec
class LoggerSettings:
    """``wandb=online`` without a key runs offline and says how to sync; it is never an error."""

    wandb: WandbMode = WandbMode.DISABLED
    project: str = "vgen"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


def has_key() -> bool:
    """Is a W&B key at hand (environment or netrc)? The key itself is not read."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")


def is_reachable(seconds: float = 5.0) -> bool:
    """Does the W&B server, or the proxy before it, take connections? Asked first, because W&B itself waits
    and then fails."""
    places = (os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "WANDB_BASE_URL"))
    address = urlsplit(next((place for place in places if place), "https://api.wandb.ai"))
    try:
        socket.create_connection(
            (address.hostname, address.port or (80 if address.scheme == "http" else 443)), timeout=seconds
        ).close()
    except OSError:
        return False
    return True


def effective_mode(settings: LoggerSettings) -> WandbMode:
    """The environment's WANDB_MODE wins; online needs a key and a server that answers."""
    wish = os.environ.get("WANDB_MODE")
    mode = WandbMode(wish) if wish in [m.value for m in WandbMode] else settings.wandb
    if mode is not WandbMode.ONLINE:
        return mode
    lack = "no key found" if not has_key() else "the server cannot be reached" if not is_reachable() else None
    if lack is None:
        return mode
    say_offline(lack)
    return WandbMode.OFFLINE


def say_offline(lack: str) -> None:
    log.warning(
        "W&B: %s, so this run is recorded offline; later run 'wandb login' and 'wandb sync' on the "
        "offline-run folder named below",
        lack,
    )


def loggers(
    settings: LoggerSettings,
    folder: Path,
    name: str,
    run_id: str | None,
    config: dict[str, Any],
    steps_done: int = 0,
    job_type: str = "train",
) -> list[Logger]:
    """The loggers of a run; ``run_id`` is kept in its folder, so that a resumed run goes on with one curve.

    None on all ranks but the first.
    """
    version = (
        f"metrics-from-{steps_done}" if steps_done else "metrics"
    )  # CSVLogger empties a folder that it finds
    out: list[Logger] = [PatientCsv(folder, name="", version=version, flush_logs_every_n_steps=10)]
    if run_id is None:
        return out
    mode = effective_mode(settings)
    if mode is WandbMode.DISABLED:
        return out
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DISABLE_CODE", "true")

    in_sweep = "WANDB_SWEEP_ID" in os.environ  # its agent says which run it is

    def open_in(mode: WandbMode) -> WandbLogger:
        made = WandbLogger(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags,
            name=name,
            id=None if in_sweep else run_id,
            save_dir=folder,
            offline=mode is WandbMode.OFFLINE,
            job_type=job_type,
            resume=None if in_sweep else "allow",
            config=config,
            reinit="finish_previous",
            settings={"init_timeout": ANSWER_SECONDS},
        )
        made._wandb_init.pop("anonymous", None)  # Lightning passes it unasked, and W&B warns that it is gone
        return made

    wandb = open_in(mode)
    if mode is WandbMode.ONLINE and (lack := _refused(wandb)):
        say_offline(lack)
        mode = WandbMode.OFFLINE
        wandb = open_in(mode)
    begin = _begun(folder, run_id) if mode is WandbMode.OFFLINE else 0
    if mode is WandbMode.OFFLINE:
        log.info(
            "W&B: recording offline under %s; 'wandb sync %s/wandb/offline-run-*' uploads it",
            folder / "wandb",
            folder,
        )
    if begin:  # W&B counts from 0 in each part
        wandb.experiment.log({offline_runs.GLOBAL_STEP: steps_done - 1}, step=begin)
    return [*out, wandb]


def _begun(folder: Path, run_id: str) -> int:
    """Where W&B's count of steps goes on in a run that was recorded offline before; its parts are joined."""
    _join(folder, run_id)
    return offline_runs.next_step(folder, run_id)


def _join(folder: Path, run_id: str) -> None:
    """Parts that cannot be joined stay as they are: no figure is worth a training."""
    try:
        offline_runs.join(folder, run_id)
    except Exception as error:  # noqa: BLE001  a format of W&B's own, which a newer W&B may change
        log.warning("W&B: the parts of the offline run under %s stay apart (%s)", folder / "wandb", error)


@contextmanager
def recorded(figures: Sequence[Logger]) -> Iterator[None]:
    """While it lasts these loggers write; at its end their W&B run is closed, so that the next training of
    this process opens one of its own."""
    failed = 1
    try:
        yield
        failed = 0
    finally:
        for logger in figures:
            if isinstance(logger, WandbLogger):
                _close(logger, failed)


def _close(logger: WandbLogger, exit_code: int) -> None:
    """Lightning leaves the run open until the process ends. A run of somebody else's stays as it is."""
    import wandb

    if wandb.run is not None and logger._experiment is not None and wandb.run.id == logger._experiment.id:
        wandb.finish(exit_code=exit_code)
        if logger._offline:
            folder = Path(logger.save_dir or ".")
            offline_runs.await_end(folder, logger._experiment.id)
            _join(folder, logger._experiment.id)


def taken_no_run(error: Exception) -> str:
    return f"the server takes no run ({' '.join(str(error).split())})"


def _refused(logger: WandbLogger) -> str | None:
    """Begin the run; what the server that was reached says where it takes none: a proxy's refusal, a key that
    has gone stale."""
    import wandb

    try:
        _ = logger.experiment
    except wandb.errors.Error as error:
        wandb.teardown()  # its service holds the run's id, and would refuse it offline too
        return taken_no_run(error)
    return None


def run_id_of(folder: Path) -> str:
    """A W&B run id that survives a resume."""
    path = folder / "run_id.txt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(random.SystemRandom().choices(string.ascii_lowercase + string.digits, k=8)))
    return path.read_text().strip()
