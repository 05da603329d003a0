"""`vgen doctor`: is this machine fit for vgen, and what to do about each lack. Exit code 1 only if vgen
cannot work at all."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from vgen.app import checkups
from vgen.app.checkups import Finding, Reply, State

COLOURS = {State.WORKS: "green", State.CARE: "yellow", State.ABSENT: "cyan", State.BROKEN: "bold red"}


def main() -> int:
    """Print the table and a closing sentence."""
    if sys.argv[1:]:
        raise ValueError(
            f"the doctor looks at everything and takes no arguments, got {' '.join(sys.argv[1:])}; leave "
            "them out"
        )
    findings = examine()
    console = Console(highlight=False)
    console.print(_table(findings))
    broken = [finding.subject for finding in findings if finding.state is State.BROKEN]
    if broken:
        console.print(f"vgen cannot work here until this is mended: {', '.join(broken)}.", style="bold red")
        return 1
    console.print("vgen can work here; whatever is lacking is optional.")
    return 0


def examine() -> list[Finding]:
    """Every checkup, in the order of the table; the slow imports run side by side in processes of their
    own."""
    malicious = checkups.known_malicious()
    with ThreadPoolExecutor(max_workers=len(checkups.PROCESSES)) as pool:
        processes = [names for names in checkups.PROCESSES if not (malicious and "lightning" in names)]
        replies = {
            name: reply for answers in pool.map(checkups.probe, processes) for name, reply in answers.items()
        }
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
