"""`vgen doctor`: is this machine fit for vgen, and what to do about each lack. Exit code 1 only if vgen
cannot work at all. Started as several ranks it looks at what is between them too."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from vgen.app import checkups, cluster_checkups, meeting, probes
from vgen.app.probes import Finding, Reply, State
from vgen.app.refusals import in_letters

Told = Callable[[Sequence[str]], None]
"""Called with the names of the checkups that are still under way."""
COLOURS = {State.WORKS: "green", State.CARE: "yellow", State.ABSENT: "cyan", State.BROKEN: "bold red"}


def main() -> int:
    """Print the table and a closing sentence."""
    if sys.argv[1:]:
        raise ValueError(
            f"the doctor looks at everything and takes no arguments, got {' '.join(sys.argv[1:])}; leave "
            "them out"
        )
    at = meeting.place()
    if at is not None and at.rank > 0:
        return _as_another(at)
    console = Console(highlight=False)
    # first, while no import of its own slows the rank that all others look for
    between = cluster_checkups.examine(at, Path.cwd()) if at else cluster_checkups.alone()
    with _looking(Console(stderr=True)) as told:
        findings = [*examine(told), *between]
    console.print(_table(findings))
    broken = [finding.subject for finding in findings if finding.state is State.BROKEN]
    if broken:
        console.print(f"vgen cannot work here until this is mended: {', '.join(broken)}.", style="bold red")
        return 1
    console.print("vgen can work here; whatever is lacking is optional.")
    return 0


def _as_another(at: meeting.Place) -> int:
    """One of the ranks behind the first: it answers, and speaks where it alone can."""
    findings = cluster_checkups.examine(at, Path.cwd())
    broken = [finding for finding in findings if finding.state is State.BROKEN]
    for one in broken:
        told = in_letters(f"{one.subject}: {one.found}; {one.remedy}")
        print(f"vgen doctor: rank {at.rank} on {at.node}: {told}", file=sys.stderr)
    return 1 if broken else 0


@contextmanager
def _looking(console: Console) -> Iterator[Told]:
    """A line that names what is still being looked at; without a terminal it is written once."""
    with console.status("") as status:

        def told(left: Sequence[str]) -> None:
            line = f"looking at {', '.join(left)}: after an installation this can take a minute"
            if console.is_terminal:
                status.update(line)
            elif not said:
                console.print(line, soft_wrap=True)
            said.append(line)

        said: list[str] = []
        yield told


def examine(told: Told = lambda left: None) -> list[Finding]:
    """Every checkup, in the order of the table; the slow imports run side by side in processes of their
    own."""
    malicious = checkups.known_malicious()
    processes = [names for names in probes.PROCESSES if not (malicious and "lightning" in names)]
    replies = _replies(processes, told)
    unknown = Reply({}, "not looked at, because it would import a malicious Lightning")
    return [
        *checkups.python(),
        *checkups.torch(replies["torch"]),
        *checkups.torchvision(replies["torchvision"]),
        *checkups.models(replies.get("models", unknown)),
        *(malicious or checkups.lightning(replies.get("lightning", unknown))),
        *checkups.deepspeed(replies["deepspeed"]),
        *checkups.video(replies["av"]),
        *checkups.wandb(),
        *checkups.slurm(),
        *checkups.disk(Path.cwd()),
        *checkups.memory(),
        *checkups.toybox_model(),
    ]


def _replies(processes: Sequence[Sequence[str]], told: Told) -> dict[str, Reply]:
    """Of every probe by its name; ``told`` what is left after each."""
    left = [name for names in processes for name in names]
    replies: dict[str, Reply] = {}
    told(left)
    with ThreadPoolExecutor(max_workers=len(probes.PROCESSES)) as pool:
        for done in as_completed([pool.submit(probes.probe, names) for names in processes]):
            replies |= done.result()
            left = [name for name in left if name not in replies]
            if left:
                told(left)
    return replies


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("found, and what to do about it", overflow="fold")
    for finding in findings:
        colour = COLOURS[finding.state]
        remedy = f"\n[{colour}]→[/] {_plain(finding.remedy)}" if finding.remedy else ""
        table.add_row(f"[{colour}]{finding.state.value}[/]", finding.subject, _plain(finding.found) + remedy)
    return table


def _plain(text: str) -> str:
    """Square brackets in messages are not rich's markup."""
    return text.replace("[", r"\[")
