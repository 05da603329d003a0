"""Finished evaluations, read back from their folders: pages and trackers mirror ``summary.json`` and
``scores.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from vgen.app.plain import from_plain
from vgen.data.files import lines_of
from vgen.metrics.flat_suites import in_slots
from vgen.metrics.statistics import interval
from vgen.metrics.suite import Suite, Task, tasks

_SAID = {"guidance": "guidance {:g}", "num_steps": "{} steps", "solver": "{}", "num_frames": "{} frames"}


@dataclass(frozen=True, slots=True)
class Result:
    """One checkpoint on one suite with one sampler. ``rows`` are those of ``scores.jsonl``; ``label`` tells
    it from those beside it."""

    folder: Path
    name: str
    label: str
    summary: dict[str, Any]
    rows: dict[str, dict[str, Any]]

    @property
    def numbers(self) -> dict[str, Any]:
        return self.summary["checkpoints"][self.name]

    @property
    def headlines(self) -> list[str]:
        return self.summary["headlines"]

    @property
    def set_headlines(self) -> dict[str, float]:
        """Numbers of many clips together that stand beside the headlines, and what the world has of each."""
        return self.summary.get("set_headlines", {})

    def number(self, key: str) -> dict[str, Any]:
        """Mean and interval, of clips one by one or of all together; nothing where this result lacks what
        others beside it have."""
        return self.numbers["overall"].get(key) or self.numbers["set"].get(key) or asdict(interval([]))

    def tasks(self) -> list[Task]:
        return tasks(from_plain(Suite, in_slots(self.summary["suite"])))

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))


def load(*folders: Path) -> list[Result]:
    """Every checkpoint of every folder, labelled by what differs."""
    found = [result for folder in folders for result in _load(folder)]
    differing = [key for key in _SAID if len(_values(found, key)) > 1]
    labelled = [replace(r, label=", ".join([r.name, *_said(r.summary["sampler"], differing)])) for r in found]
    seen: dict[str, int] = {}
    for i, result in enumerate(labelled):
        seen[result.label] = seen.get(result.label, 0) + 1
        if seen[result.label] > 1:
            labelled[i] = replace(result, label=f"{result.label} ({result.folder.name})")
    return labelled


def _values(results: Sequence[Result], key: str) -> set[str]:
    """What a setting of the sampler is, as JSON, where it is there."""
    settings = [result.summary["sampler"].get(key) for result in results]
    return {json.dumps(value) for value in settings if value is not None}


def _said(sampler: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """A method may lack a setting that others beside it have."""
    return [_SAID[k].format(sampler[k]) for k in keys if sampler.get(k) is not None]


def _load(folder: Path) -> list[Result]:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in lines_of((folder / "scores.jsonl").read_text(encoding="utf-8"))]
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is no finished evaluation ({Path(error.filename).name} is missing); give a folder "
            "that vgen evaluate made"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"the results in {folder} can't be read ({error}); run the same vgen evaluate again, it only "
            "scores"
        ) from error
    if "rule" not in summary:
        raise ValueError(
            f"{folder} was scored by an earlier vgen; run the same vgen evaluate again, it only scores"
        )
    return [
        Result(folder, name, name, summary, {r["id"]: r for r in rows if r["checkpoint"] == name})
        for name in summary["checkpoints"]
    ]


def difference_of_kind(a: Result, b: Result) -> str | None:
    """Why two results must not be compared, or None: another suite, other clips of it, another version of a
    metric."""
    reasons = (_other_rule, _other_metrics, _other_clips, _other_corpus, _other_decoder, _other_size)
    return next((why for reason in reasons if (why := reason(a, b)) is not None), None)


def _differing(of: dict[str, Any], other: dict[str, Any]) -> str:
    """What two dictionaries differ in, with both values."""
    keys = sorted(key for key in {*of, *other} if of.get(key) != other.get(key))
    return ", ".join(f"{key} ({of.get(key)} and {other.get(key)})" for key in keys)


def _other_rule(a: Result, b: Result) -> str | None:
    rules = a.summary["rule"], b.summary["rule"]
    return None if rules[0] == rules[1] else f"the suites differ in {_differing(*rules)}"


def _other_metrics(a: Result, b: Result) -> str | None:
    mine, theirs = ({m["id"]: m["version"] for m in r.summary["metrics"]} for r in (a, b))
    differing = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
    told = ", ".join(f"{k} {mine.get(k)} and {theirs.get(k)}" for k in differing)
    return f"metric versions differ: {told}" if differing else None


def _other_clips(a: Result, b: Result) -> str | None:
    only = sorted(set(a.rows) ^ set(b.rows))
    if not only:
        return None
    sizes = f"{len(a.rows)} and {len(b.rows)} clips"
    return f"{len(only)} clips are in one of them only (such as {only[0]}), {sizes}"


def _other_corpus(a: Result, b: Result) -> str | None:
    corpora = [corpus for r in (a, b) if (corpus := r.summary.get("corpus"))]
    if len({corpus.get("sha256") for corpus in corpora}) < 2:
        return None
    told = " and ".join(f"corpus={c['folder']} of {c['scenes']}" for c in corpora)
    return (
        f"their clips were held against different training scenes ({told}; score both again with one "
        "corpus, or with none)"
    )


def _other_decoder(a: Result, b: Result) -> str | None:
    mine, theirs = (r.summary.get("codec") for r in (a, b))
    if mine == theirs:
        return None
    return (
        f"the ground is measured against what another image model's decoder keeps ({mine} and {theirs}; "
        "backbone= names one)"
    )


def _other_size(a: Result, b: Result) -> str | None:
    mine, theirs = (r.summary["size_px"] for r in (a, b))
    return None if mine == theirs else f"clips are {mine} and {theirs} px wide"


def worded(number: dict[str, Any] | None, form: str = ".2f") -> str:
    """A mean with its interval; a dash in its place where one sample says nothing of others."""
    if number is None or number["mean"] is None:
        return "-"
    mean, bounds = f"{number['mean']:{form}}", [number["low"], number["high"]]
    if number["num"] == 1:
        return f"{mean} [-]"
    return mean if None in bounds else f"{mean} [{', '.join(f'{x:{form}}' for x in bounds)}]"


def headline_table(found: dict[str, Any]) -> Table:
    """Headlines, and those of many clips together, one row per checkpoint; the best trick, the decoder's
    ceiling and what the world has below."""
    tricks = (
        f"stills: tricks that act on time are left out ({', '.join(found['left_out'])})"
        if found["left_out"]
        else None
    )
    out = Table(title="evaluation", title_justify="left", caption=tricks, caption_justify="left")
    out.add_column("checkpoint", style="bold", overflow="fold")
    keys = [*found["headlines"], *found["set_headlines"]]
    for key in keys:
        out.add_column(key, justify="right", overflow="fold")
    for name, numbers in found["checkpoints"].items():
        out.add_row(
            name,
            *(
                worded((numbers["overall"] if key in found["headlines"] else numbers["set"])[key])
                for key in keys
            ),
        )
    out.add_section()
    floors = [found["floors"][key] for key in keys]
    out.add_row("best trick", *("-" if f[0] is None else f"{f[0]:.2f} ({f[1]})" for f in floors), style="dim")
    out.add_row(
        "ceiling",
        *("-" if (c := found["ceiling"].get(key)) is None else f"{c:.2f}" for key in keys),
        style="dim",
    )
    if found["set_headlines"]:
        targets = [found["set_headlines"].get(key) for key in keys]
        out.add_row(
            "the world", *("" if target is None else f"{target:g}" for target in targets), style="dim"
        )
    return out


def rank(results: Sequence[Result]) -> list[Result]:
    """Best first by the first headline, then by the next where that one ties; a tie in all goes to the
    cheaper. Without headlines as they come."""
    if not results[0].headlines:
        return list(results)
    return sorted(
        results,
        key=lambda result: (
            [-number for number in _standing(result)],
            result.numbers["cost"]["unet_calls"] or 0.0,
        ),
    )


def places(ranked: Sequence[Result]) -> list[int]:
    """The place of each; equal in every headline share one, as in sports."""
    out: list[int] = []
    for i, result in enumerate(ranked):
        tied = i > 0 and bool(result.headlines) and _standing(result) == _standing(ranked[i - 1])
        out.append(out[-1] if tied else i + 1)
    return out


def _standing(result: Result) -> list[float]:
    """The headlines in their order; what is missing is behind everything."""
    means = [result.numbers["overall"].get(key, {}).get("mean") for key in result.headlines]
    return [-math.inf if mean is None else mean for mean in means]


def counted_things(num: int) -> str:
    """The name of a part of a suite: clips by how many things their scenes have."""
    return f"{num} thing{'s' * (num != 1)}"


def pareto(points: Sequence[tuple[float | None, float | None]]) -> list[bool]:
    """For each (cost, quality) whether no other point is at most as dear and at least as good, and better in
    one of the two. Points that lack either are not on the front."""

    def beaten(cost: float, quality: float) -> bool:
        return any(
            c is not None and q is not None and c <= cost and q >= quality and (c < cost or q > quality)
            for c, q in points
        )

    return [
        cost is not None and quality is not None and not beaten(cost, quality) for cost, quality in points
    ]
