"""The report in a real browser: it plays, filters, compares and says nothing to anybody."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, Source, evaluate
from vgen.app.judging.charts import charts, ticks
from vgen.app.judging.clip_store import ClipStore, truth
from vgen.app.judging.explained import EXPLAINED, finding
from vgen.app.judging.overlay import read_seen
from vgen.app.judging.page import COLUMNS, PageSettings, gallery_order, passed
from vgen.app.judging.results import load
from vgen.app.judging.scorer import overlay_path
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.renderer import render

SUITE = Suite(iid=3, pair=2, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def frozen(todo: list[Task]) -> np.ndarray:
    return np.repeat(perfect(todo)[:, :1], 4, 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    run = EvaluateRun(suite=SUITE, out=str(folder), selftest=2)
    evaluate(
        run,
        Console(quiet=True),
        {n: Source({"adapter": n}, lambda s=s: s) for n, s in (("frozen", frozen), ("good", perfect))},
        lambda: lambda v: v,
    )
    return folder / "report"


def data(report: Path) -> dict:
    return json.loads(
        (report / "data.js").read_text(encoding="utf-8").removeprefix("window.REPORT = ").removesuffix(";\n")
    )


def test_long_names_leave_room_for_fewer_marks() -> None:
    """Five of them ran into one another beside 'untrained, guidance 3' at 800 px."""
    assert ticks(["untrained", "shipped"]) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(["shipped", "untrained, guidance 3"]) == [0, 0.5, 1]


def test_the_folder_is_complete(report: Path) -> None:
    assert {p.name for p in report.iterdir()} == {
        "index.html",
        "data.js",
        "overlay.js",
        "plotly.min.js",
        "clips",
        "seen",
    }
    for clip in data(report)["clips"]:
        assert all(
            (report / "clips" / name).stat().st_size > 500
            for name in (clip["truth"], *(take["src"] for take in clip["takes"]))
        )
        assert all((report / "seen" / f"{take['mark']}.png").is_file() for take in clip["takes"])
        assert clip["truth"] == clip["takes"][1]["src"], "the same pixels are one file"


def test_what_the_oracle_saw_is_a_strip_of_masks_with_tracks(report: Path) -> None:
    mark = data(report)["clips"][0]["takes"][1]["mark"]
    with Image.open(report / "seen" / f"{mark}.png") as strip:
        assert strip.size == (64, 4 * 64)
        assert len(np.unique(np.asarray(strip))) == 3
    tracks = read_seen(report / "seen" / f"{mark}.png")["things"]
    assert tracks
    assert all(len(t["f"]) == len(t["x"]) == len(t["y"]) == 4 for t in tracks)


def test_headlines_have_bars_with_intervals_floor_and_ceiling(report: Path) -> None:
    figure = data(report)["charts"]["bars"]["motion_moving"]
    assert [round(x) for x in figure["data"][0]["x"]] == [0, 1]
    up, down = (figure["data"][0]["error_x"][end] for end in ("array", "arrayminus"))
    assert (up[1], down[0]) == (0, 0), "no share is beyond 0 and 1"
    assert up[0] == down[1] > 0.5, "few clips that agree leave room for others"
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [pytest.approx(0, abs=0.5), 1]
    assert {"exact|unet_calls", "exact|seconds_per_clip"} <= set(data(report)["charts"]["pareto"])


def test_it_opens_plays_and_asks_nobody(report: Path, browser) -> None:
    browser.open(report / "index.html")
    browser.until(
        "[...document.querySelectorAll('.chart:not(.said)')].every(c => c.querySelector('.main-svg'))"
    )
    browser.run("document.getElementById('gallery').scrollIntoView()")
    browser.until("[...document.querySelectorAll('.clip video')].length >= 3")
    browser.until(
        "[...document.querySelectorAll('.clip[data-on] video')].every(v => v.currentTime > 0 && !v.paused "
        "&& v.videoWidth >= 128)"
    )
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_filters(report: Path, browser) -> None:
    browser.open(report / "index.html")
    assert browser.run("document.getElementById('shown').textContent") == "5"
    browser.choose("bucket", "pair")
    assert browser.run("document.getElementById('shown').textContent") == "2"
    browser.choose("failing", "motion")
    moving = browser.run("document.getElementById('shown').textContent")
    browser.choose("who", "1")
    assert int(moving) > 0
    assert browser.run("document.getElementById('shown').textContent") == "0", "the truth fails in nothing"
    assert browser.run("!document.getElementById('none').hidden")
    for field in ("bucket", "failing", "who"):
        browser.choose(field, "")
    words = data(report)["clips"][0]["caption"].split()[1:3]
    browser.choose("words", " ".join(words))
    assert browser.run(
        "[...document.querySelectorAll('.clip')].filter(c => !c.hidden).every(c => c.textContent.includes("
        + json.dumps(words[0])
        + "))"
    )


def test_a_and_b_difference_and_order(report: Path, browser) -> None:
    browser.open(report / "index.html")
    browser.run("document.getElementById('gallery').scrollIntoView()")
    browser.until("document.querySelector('.clip[data-on]')")
    browser.run("document.getElementById('diff').click()")
    browser.until("document.querySelector('.screen.diff video + video')")
    assert (
        browser.run("getComputedStyle(document.querySelector('.screen.diff video + video')).mixBlendMode")
        == "difference"
    )
    names = (
        "[...document.querySelector('.clip[data-on]').querySelectorAll('figcaption span')].map(s => "
        "s.textContent)"
    )
    assert browser.run(names) == ["truth", "frozen", "good", "A − B, brightened"]
    browser.choose("b", "0")
    assert browser.run(names) == ["truth", "frozen", "truth − A, brightened"]
    browser.choose("b", "1")
    browser.choose("sort", "apart")
    apart = (
        "[...document.querySelectorAll('.clip')].map(c => c.clip.takes.map(merit)).map(([a, b]) => "
        "Math.abs(a - b))"
    )
    gaps = browser.run(apart)
    assert gaps == sorted(gaps, reverse=True)
    assert browser.complaints == []


def test_keys(report: Path, browser) -> None:
    browser.open(report / "index.html")
    browser.press("j")
    browser.until("document.activeElement.classList.contains('at')")
    browser.press("j")
    assert browser.run("document.activeElement.index") == browser.run(
        "[...document.getElementById('gallery').children][1].index"
    )
    browser.until(
        "document.activeElement.dataset.on && [...document.activeElement.querySelectorAll('video')].every(v "
        "=> v.readyState > 1)"
    )
    browser.press(" ")
    assert browser.run("[...document.querySelectorAll('video')].every(v => v.paused)")
    frame = browser.run("state.frame")
    browser.press("ArrowRight")
    assert browser.run("state.frame") == (frame + 1) % 4
    browser.until(
        "[...document.activeElement.querySelectorAll('video')].every(v => Math.floor(v.currentTime * R.fps) "
        "=== state.frame)"
    )
    browser.press("o")
    browser.until(
        "document.querySelector('.clip.at svg circle[cx]') && document.querySelector('.clip.at "
        ".mask').style.backgroundPositionY"
    )
    browser.press("s")
    browser.until("document.querySelectorAll('#strip canvas[data-painted]').length === 12")
    assert browser.run("document.activeElement.textContent") == "close"
    browser.run("document.querySelector('#strip form button').click()")
    browser.press("/")
    assert browser.run("document.activeElement.id") == "words"
    assert browser.complaints == []


def test_dark_and_light(report: Path, browser) -> None:
    """Ink stands out from paper in both, charts included."""
    browser.open(report / "index.html")
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.ytick text')).fill"
    bright = "(c => c.match(/\\d+/g).slice(0, 3).reduce((x, y) => x + +y, 0))"
    for name, light, dark in (("light", paper, ink), ("dark", ink, paper)):
        browser.theme(name)
        browser.until(f"{bright}({light}) > 500 && {bright}({dark}) < 200")
    browser.run("document.getElementById('theme').click()")
    browser.until(f"{bright}({paper}) > 600 && {bright}({ink}) < 200")


def test_512_clips_open_fast_and_hold_few_players(report: Path, tmp_path: Path, browser) -> None:
    """The same few files under 512 names: what is far from the window holds no video."""
    shutil.copytree(report, tmp_path / "many")
    many = data(report)
    many["clips"] = [clip | {"id": f"{clip['id']}-{i}"} for i in range(103) for clip in many["clips"]][:512]
    (tmp_path / "many" / "data.js").write_text(f"window.REPORT = {json.dumps(many)};")
    browser.open(tmp_path / "many" / "index.html")
    ready = browser.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert ready < 20_000, "milliseconds on a busy machine; about 1 s on a quiet one"
    assert browser.run("document.querySelectorAll('.clip').length") == 512
    for at in (0.2, 0.6, 1.0):
        browser.run(f"scrollTo(0, document.body.scrollHeight * {at})")
        browser.until("document.querySelectorAll('.clip[data-on]').length > 0")
    browser.until("document.querySelectorAll('video').length < 60")


def test_a_figures_joints_are_drawn_where_the_oracle_reads_them(tmp_path: Path, browser) -> None:
    """Limbs and dots follow the figure from frame to frame; an empty picture has none."""
    suite = replace(SUITE, kind=Kind.CONTROL, control=AskedControl(control=Control.POSE), iid=1, pair=0)
    [task] = tasks(suite)
    samplers = {"good": perfect, "blank": lambda todo: np.zeros((len(todo), 4, 64, 64, 3), np.uint8)}
    run = EvaluateRun(suite=suite, out=str(tmp_path), selftest=0)
    evaluate(
        run, Console(quiet=True), {n: Source({"adapter": n}, lambda s=s: s) for n, s in samplers.items()}
    )
    store = ClipStore(tmp_path)
    [figure] = read_seen(overlay_path(store.path("good", task)))["figures"]
    wanted = render(task.scene, 64).keypoints[0]
    assert np.abs(np.array(figure["joints"]) - wanted)[:, 5:].max() < 0.05
    thing = task.scene.things[0]
    assert figure["is"] == f"{thing.colour.value} shirt, {thing.second.value} trousers"
    assert read_seen(overlay_path(store.path("blank", task))) == {"figures": []}

    browser.open(tmp_path / "report" / "index.html")
    browser.run("document.getElementById('gallery').scrollIntoView()")
    browser.until("document.querySelector('.clip[data-on]')")
    browser.press("o")
    bones = "document.querySelector('.take svg .bones')"
    browser.until(f"({bones}?.getAttribute('d') || '').split('M').length === 13")
    assert browser.run("document.querySelectorAll('.take svg .joint').length") == 17, (
        "of the one clip that shows a figure"
    )
    before = browser.run(f"{bones}.getAttribute('d')")
    browser.press("ArrowRight")
    browser.until(f"{bones}.getAttribute('d') !== {json.dumps(before)}")
    said = browser.run("[...document.querySelectorAll('.saw')].map(p => p.textContent)")
    assert said[0].startswith(f"{thing.colour.value} shirt")
    assert said[1] == "sees nothing"
    assert browser.complaints == []


def test_it_reads_well_narrow_and_wide_in_light_and_dark(report: Path, browser) -> None:
    """No overlap, no cut text, nothing wider than the window, contrast of 4.5 at least."""
    for px in (390, 800, 1400):
        browser.width(px)
        for theme in ("light", "dark"):
            browser.theme(theme)
            browser.open(report / "index.html")
            browser.until("[...document.querySelectorAll('.chart')].every(c => c.textContent)")
            browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
            browser.run("document.getElementById('gallery').scrollIntoView()")
            browser.until("document.querySelector('.clip[data-on] figcaption')")
            assert browser.audit() == [], (px, theme)
            whisker = "getComputedStyle(document.querySelector('.xerror, .errorbar path')).stroke"
            bar = "getComputedStyle(document.querySelector('.bars .point path')).fill"
            assert browser.run(whisker) != browser.run(bar), "whiskers are not of the bar's colour"


def test_clips_play_first_and_the_finding_is_a_sentence(report: Path, browser) -> None:
    browser.open(report / "index.html")
    browser.until("document.querySelectorAll('.hero video').length >= 6")
    browser.until("[...document.querySelectorAll('.hero video')].every(v => !v.paused && v.currentTime > 0)")
    order = "document.getElementById('{}').getBoundingClientRect().top"
    tops = [browser.run(order.format(name)) for name in ("first", "finding", "leaderboard", "gallery")]
    assert tops == sorted(tops)
    said = browser.run("document.getElementById('finding').textContent")
    assert said.startswith("good beats frozen by 0.60 in EXACT, n = 5: not significant (95 % interval +0.00")
    assert re.fullmatch(
        r"evaluation\d*: custom, \d{4}-\d\d-\d\d \d\d:\d\d \(vgen\)", browser.run("document.title")
    )
    without = "[...document.querySelectorAll('#leaderboard th, table th')].filter(t => !t.title).length"
    assert browser.run("document.querySelectorAll('#legend dt').length") > 5
    assert browser.run(without) < browser.run("document.querySelectorAll('th').length") / 2
    assert browser.complaints == []


def test_every_column_is_explained() -> None:
    assert set(COLUMNS) <= set(EXPLAINED)


def test_equal_costs_are_said_and_not_drawn(report: Path) -> None:
    results = load(report.parent)
    for result, calls in zip(results, (12, 12), strict=True):
        result.numbers["cost"]["unet_calls"] = calls
    assert charts(results)["pareto"]["motion_moving|unet_calls"] == {
        "note": "all results cost the same, 12 UNet calls per clip: the bars above say it all"
    }
    results[0].numbers["cost"]["unet_calls"] = 6
    assert "data" in charts(results)["pareto"]["motion_moving|unet_calls"]


def test_few_clips_that_differ_are_no_finding(report: Path) -> None:
    results = load(report.parent)
    for result in results:
        for line in result.rows.values():
            line["exact"] = 0.0
    assert re.fullmatch(r"\w+ and \w+ are equal in exact, n = 5", finding(results, {}))
    next(iter(results[1].rows.values()))["exact"] = 1.0
    said = "good beats frozen by 0.20 in exact, n = 5: not significant (95 % interval"
    assert finding(results, {}).startswith(said)
    assert re.match(r"frozen reaches \d\.\d\d in exact, n = 5; the best trick, ", finding(results[:1], {}))


def row(i: int, bucket: str, exact: float, colour: float) -> list[dict]:
    return [{"id": f"{bucket}-{i}", "bucket": bucket, "exact": exact, "colour": colour}]


def test_a_third_are_probes_and_the_rest_is_worst_first() -> None:
    groups = [row(i, "iid", float(i != 5), 1.0) for i in range(6)] + [
        row(i, "pair", 0.0, 0.5 * i) for i in range(3)
    ]
    order = [group[0]["id"] for group in gallery_order(groups, 6)]
    assert order == ["iid-0", "pair-0", "pair-1", "iid-5", "pair-2", "iid-1"]
    assert len(gallery_order(groups, 99)) == 9


def test_chips_are_green_by_the_law_of_their_attribute() -> None:
    assert passed("count", 0.75)
    assert not passed("colour", 0.75)
    assert not passed("coherence", 0.89)


def test_page_settings_are_refused_with_the_law() -> None:
    with pytest.raises(ValueError, match="page needs max_clips >= 0"):
        PageSettings(fps=0)
