"""The report's charts, as plotly figures in JSON; colours and lines that read well on dark and on light
paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from vgen.app.judging.results import Result, pareto, rank

PALETTE = ("#5b8def", "#e0803a", "#45a778", "#b177d1", "#d4609a", "#8a93a6", "#c2a13a", "#4fb3bf")
_FLOOR, _CEILING, _GRID = "#d9534a", "#2e9e6b", "rgba(128,128,128,.22)"
PARETO_PX = 380
LONG_LABEL = 12
"""Letters before which five marks fit a card of a third of a small window."""
COSTS = {"unet_calls": "UNet calls per clip", "seconds_per_clip": "seconds per clip, where it was drawn"}


def charts(results: Sequence[Result]) -> dict[str, Any]:
    """``bars`` by headline, ``pareto`` by headline and cost."""
    headlines = results[0].headlines
    return {
        "bars": {key: _plain(bars(results, key)) for key in (*headlines, *results[0].set_headlines)},
        "pareto": {
            f"{key}|{cost}": _equal(results, cost) or _plain(frontier(results, key, cost))
            for key in headlines
            for cost in COSTS
            if _has(results, cost)
        },
    }


def colour(results: Sequence[Result], result: Result) -> str:
    return PALETTE[list(results).index(result) % len(PALETTE)]


def bars_px(num: int) -> int:
    """Height of a chart of ``num`` bars; the page keeps the room free, so that nothing jumps when charts
    arrive."""
    return 74 + 34 * num


def bars(results: Sequence[Result], key: str) -> go.Figure:
    """One bar per result, best on top, with its interval; what the best trick earns and what the decoder
    allows as lines, or for numbers of many clips together what the world has."""
    shown = [r for r in reversed(rank(results)) if r.number(key)["mean"] is not None]
    numbers = [r.number(key) for r in shown]
    means = [x["mean"] for x in numbers]
    bar = go.Bar(
        x=means,
        y=[f"{r.label}  <b>{mean:.2f}</b>" for r, mean in zip(shown, means, strict=True)],
        orientation="h",
        marker_color=[colour(results, r) for r in shown],
        width=0.62,
        error_x=_whiskers(numbers, 1.6, 5),
        customdata=[[x["low"], x["high"], x["num"]] for x in numbers],
        hovertemplate="%{x:.3f}<br>95 % interval %{customdata[0]:.3f} to "
        "%{customdata[1]:.3f}<br>%{customdata[2]} clips<extra></extra>",
    )
    figure = _figure([bar], height=bars_px(len(results)))
    floor, ceiling = results[0].summary["floors"][key], results[0].summary["ceiling"].get(key)
    if key in results[0].set_headlines:
        ceiling = results[0].set_headlines[key]
        ends = [
            0.0,
            ceiling,
            floor[0] or 0.0,
            *(x[part] for x in numbers for part in ("low", "mean", "high") if x[part] is not None),
        ]
        room = 0.04 * (max(ends) - min(ends) or 1)
        figure.update_xaxes(
            range=[min(ends) - room * (min(ends) < 0), max(ends) + room], tickformat=".2~f", gridcolor=_GRID
        )
    else:
        figure.update_xaxes(
            range=[0, 1.02],
            tickvals=ticks([r.label for r in shown]),
            tickformat=".2~f",
            gridcolor=_GRID,
        )
    for value, tint, dash in ((floor[0], _FLOOR, "dot"), (ceiling, _CEILING, "dash")):
        if value is not None:
            figure.add_vline(x=value, line={"color": tint, "width": 2, "dash": dash})
    return figure


def ticks(labels: Sequence[str]) -> list[float]:
    """Shares that are marked below bars with these labels; fewer where long ones leave little room, so that
    no two run into one another."""
    crowded = max(map(len, labels), default=0) > LONG_LABEL
    return [0, 0.5, 1] if crowded else [0, 0.25, 0.5, 0.75, 1]


def frontier(results: Sequence[Result], key: str, cost: str) -> go.Figure:
    """Quality against cost; the line joins what nothing else beats in both."""
    shown = [
        r
        for r in results
        if r.numbers["cost"][cost] is not None and r.numbers["overall"][key]["mean"] is not None
    ]
    points = [(r.numbers["cost"][cost], r.numbers["overall"][key]["mean"]) for r in shown]
    front = sorted({p for p, on in zip(points, pareto(points), strict=True) if on})
    line = go.Scatter(
        x=[p[0] for p in front],
        y=[p[1] for p in front],
        mode="lines",
        line={"shape": "hv", "dash": "dot", "width": 1.5, "color": "#8a93a6"},
        hoverinfo="skip",
        showlegend=False,
    )
    traces: list[Any] = [line]
    for result, (x, y) in zip(shown, points, strict=True):
        number = result.numbers["overall"][key]
        traces.append(
            go.Scatter(
                x=[x],
                y=[y],
                name=result.label,
                mode="markers",
                marker={"size": 11, "color": colour(results, result), "line": {"width": 1, "color": "white"}},
                error_y=_whiskers([number], 1.2, 4),
                hovertemplate=f"{result.label}<br>%{{y:.3f}} at %{{x:.4~g}}<extra></extra>",
            )
        )
    figure = _figure(traces, height=PARETO_PX)
    figure.update_xaxes(
        title={"text": COSTS[cost], "font": {"size": 13}}, rangemode="tozero", gridcolor=_GRID, zeroline=False
    )
    figure.update_yaxes(title=None, range=[0, 1.02], gridcolor=_GRID, zeroline=False)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.22, "x": 0, "yanchor": "top"})
    return figure


def _whiskers(numbers: Sequence[dict[str, Any]], thickness: float, width: int) -> dict[str, Any]:
    up, down = (
        [0.0 if x[end] is None else abs(x[end] - x["mean"]) for x in numbers] for end in ("high", "low")
    )
    return {"type": "data", "array": up, "arrayminus": down, "thickness": thickness, "width": width}


def _equal(results: Sequence[Result], cost: str) -> dict[str, Any]:
    """A sentence in a chart's place where all cost the same: a chart would be one column of points."""
    prices = {price for r in results if (price := r.numbers["cost"][cost]) is not None}
    if len(prices) > 1:
        return {}
    return {"note": f"all results cost the same, {prices.pop():.4g} {COSTS[cost]}: the bars above say it all"}


def _has(results: Sequence[Result], cost: str) -> bool:
    return any(r.numbers["cost"][cost] is not None for r in results)


def _figure(traces: Sequence[Any], height: int) -> go.Figure:
    """Transparent, without plotly's template (which is most of a figure's bytes); the page puts in the colour
    of text."""
    clear = "rgba(0,0,0,0)"
    layout = go.Layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 14, "t": 8, "b": 30},
        showlegend=False,
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={"size": 13},
        yaxis={"automargin": True, "ticksuffix": "  "},
        xaxis={"automargin": True, "zeroline": False},
        hoverlabel={"align": "left"},
    )
    return go.Figure(traces, layout)


def _plain(figure: go.Figure) -> dict[str, Any]:
    found = json.loads(figure.to_json())
    found["layout"].pop("template", None)
    return found
