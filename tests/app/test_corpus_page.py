"""The page that ``vgen prepare`` ends with: one file, any corpus, foreign texts."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from vgen.app.corpus_page import facts
from vgen.app.corpus_page.facts import facts_of, histogram
from vgen.app.corpus_page.page import PAGE, write_page
from vgen.app.prepare import run
from vgen.app.terminal import Terminal
from vgen.data.clip_files import write_mp4
from vgen.data.folder_source import FolderSource
from vgen.data.ledger import Reason, Rejection, write_ledger
from vgen.data.manifest import Manifest
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.sample import Encoding, Sample, Video, pack
from vgen.data.toybox import ToyboxSource
from vgen.data.writer import ShardWriter

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)> {{ 7*7 }} \u202eright"
WIDTHS, THEMES = (390, 800, 1400), ("light", "dark")


def written(folder: Path, samples: list[Sample], rejections: list[Rejection]) -> Path:
    """A folder of shards as ``vgen prepare`` leaves it."""
    folder.mkdir(parents=True)
    encoding = Encoding(video=Video.npy, crf=18)
    with ShardWriter(folder, 1 << 28) as writer:
        for sample in samples:
            writer.write(sample.id, pack(sample, encoding))
    write_ledger(folder, rejections)
    counts = {"clips": len(samples), "seconds": 2.0 * len(samples), "files": len(samples) + len(rejections)}
    Manifest(
        source={"name": "x", "path": None, "listing": "0"},
        settings={"data": "FolderSource", "fps": 8.0, "fields": {"edges": "canny (vgen)"}, "note": HOSTILE},
        counts={**counts, "rejected": len(rejections), "bytes": sum(s.size for s in writer.shards)},
        shards=writer.shards,
        vgen_version="0",
    ).write(folder)
    return folder


def sample(i: int, frames: int = 4, size: int = 32, caption: str | None = HOSTILE) -> Sample:
    """A square that moves, with every field that a page can show."""
    video = np.zeros((frames, size, size, 3), np.uint8)
    for k in range(frames):
        video[k, 8:24, 2 * k : 2 * k + 12] = (220, 40, 40)
    joints = np.tile(np.linspace(0.2, 0.8, 17, dtype=np.float32)[None, None, :, None], (frames, 2, 1, 3))
    fields = {
        "edges": (video[..., 0] > 0).astype(np.uint8) * 255,
        "depth": 1 + video[..., 0].astype(np.float32),
        "pose": joints,
        "reference": video[:1],
        "latents": np.zeros((frames, 4, 4, 4), np.float16),
    }
    if frames > 1:
        fields["flow"] = np.ones((frames - 1, size, size, 2), np.float32)
    known = {"fps": 8.0, "num_frames": frames, "source_fps": 25.0 + i % 2, "source_width_px": 640}
    return Sample(f"a-{i:04d}", video, caption, {**known, "source_height_px": 360 + i, "source": "x"}, fields)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [sample(i, frames=4 + i % 3, caption=HOSTILE if i % 5 else None) for i in range(20)]
    gone = [
        Rejection(row=i, key=f"k{i}", source=f"{HOSTILE}.mp4", reason=reason, detail="ends after 0.1 s")
        for i, reason in enumerate([Reason.TOO_SHORT] * 5 + [Reason.CORRUPT])
    ]
    return written(tmp_path_factory.mktemp("corpus") / "mine & <b>", samples, gone)


def test_what_people_wrote_is_text_and_nothing_is_asked_of_anyone(corpus: Path) -> None:
    html = write_page(corpus).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "onerror=alert(1)&gt;" in html
    assert "{{ 7*7 }}" in html
    assert "default-src 'none'" in html
    addresses = re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", html)
    assert all(address.startswith("data:") for address in addresses if address != "x")
    assert [p.name for p in corpus.glob("*.html")] == [PAGE]


def test_it_says_what_is_there(corpus: Path) -> None:
    found = facts_of(corpus)
    assert [(why.reason, why.count, len(why.first)) for why in found.whys] == [
        ("too short", 5, 3),
        ("corrupt", 1, 1),
    ]
    known = {one.title: one for one in found.histograms}
    assert [*known] == ["length", "frames", "size", "frame rate", "caption", "motion"]
    assert [(bar.said, bar.count) for bar in known["frames"].bars] == [("4", 7), ("5", 7), ("6", 6)]
    assert [(bar.said, bar.count) for bar in known["frame rate"].bars] == [("25", 10), ("26", 10)]
    assert known["caption"].num == 16, "four have none"
    assert known["caption"].middle == str(len(HOSTILE.split()))
    assert sum(bar.count for bar in known["size"].bars) == 20
    assert float(known["motion"].middle) > 0
    html = write_page(corpus).read_text(encoding="utf-8")
    assert html.count("<video") == 12 * 5, "the video, four fields; latents are no picture"
    assert html.count("<img") == 12, "the reference is a still"
    for word in ("no caption", "edges, by canny (vgen)", "20 clips", "6 of 26 rows rejected"):
        assert word in html, word


def test_the_same_folder_gives_the_same_page_and_another_seed_another(corpus: Path) -> None:
    one, two = (write_page(corpus).read_bytes() for _ in range(2))
    assert one == two
    assert write_page(corpus, seed=1).read_bytes() != one


def test_a_large_corpus_costs_no_more_than_a_small_one(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a few, pixels of fewer."""
    reads: list[bool] = []
    usual = ShardReader.__getitem__

    def counted(self: ShardReader, i: int) -> Sample:
        reads.append("video" in self.needs.names)
        return usual(self, i)

    monkeypatch.setattr(ShardReader, "__getitem__", counted)
    for name, value in (("MOST_TOLD", 8), ("MOST_SEEN", 4), ("MOST_SHOWN", 2)):
        monkeypatch.setattr(facts, name, value)
    found = facts_of(corpus)
    assert (reads.count(False), reads.count(True)) == (8, 4)
    assert (len(found.clips), found.num_told) == (2, 8)
    assert "Of 8 of 20 clips by chance" in write_page(corpus).read_text()


def test_bars_hold_every_value_once() -> None:
    words = [*range(1, 40), 90]
    many = histogram("caption", "words", words)
    assert len(many.bars) <= facts.MOST_BARS
    assert sum(bar.count for bar in many.bars) == len(words)
    assert many.bars[0].said == "1 to 8"
    assert max(bar.height for bar in many.bars) == 1
    single = histogram("length", "seconds", [2.0] * 5)
    assert [asdict(bar) for bar in single.bars] == [{"said": "2", "count": 5, "height": 1.0}]
    real = histogram("motion", "of 255", list(np.linspace(0.5, 9.7, 50)))
    assert sum(bar.count for bar in real.bars) == 50
    assert (real.bars[0].said, real.bars[-1].said) == ("0.5 to 1.27", "8.93 to 9.7")


def test_prepare_ends_with_it_and_writes_one_that_is_lost_again(tmp_path: Path, capsys) -> None:
    source = ToyboxSource(num_clips=3, stills=True)
    wish = Prepare(data=source, out=str(tmp_path / "out"), fields=["edges"], num_processes=1)
    run(wish, Terminal())
    page = tmp_path / "out" / PAGE
    html = page.read_text()
    assert "<video" not in html
    assert html.count("<img") == 6, "stills are pictures"
    assert "Nothing: every row became clips." in html
    assert "to look at" in capsys.readouterr().out
    page.unlink()
    run(wish, Terminal())
    assert page.read_text() == html
    page.write_text("mine")
    run(wish, Terminal())
    assert page.read_text() == "mine", "a complete folder is left as it is"


def test_files_of_a_person_are_told_of(tmp_path: Path) -> None:
    clip = np.zeros((24, 48, 64, 3), np.uint8)
    clip[:, :, :, 0] = np.arange(24, dtype=np.uint8)[:, None, None] * 10
    for name in ("a", "b"):
        write_mp4(tmp_path / "in" / f"{name}.mp4", clip, fps=12)
        (tmp_path / "in" / f"{name}.txt").write_text("one two three")
    (tmp_path / "in" / "c.mp4").write_bytes(b"")
    source = FolderSource(path=str(tmp_path / "in"))
    settings = {"num_frames": 8, "size_px": 32, "num_processes": 1}
    prepare(Prepare(data=source, out=str(tmp_path / "out"), **settings), lambda *_: None)
    found = facts_of(tmp_path / "out")
    known = {one.title: one for one in found.histograms}
    assert [bar.said for bar in known["size"].bars] == ["48"]
    assert [bar.said for bar in known["frame rate"].bars] == ["12"]
    assert [bar.said for bar in known["length"].bars] == ["1"]
    assert known["caption"].middle == "3"
    assert [why.count for why in found.whys] == [1] or "missing caption" in str(found.whys)


def test_it_opens_by_double_click_plays_and_reads_well(corpus: Path, browser, tmp_path: Path) -> None:
    page = write_page(corpus)
    for px in WIDTHS:
        browser.width(px)
        for theme in THEMES:
            browser.theme(theme)
            browser.open(page)
            playing = "[...document.querySelectorAll('video')].slice(0, 5).every(v => v.currentTime > 0)"
            browser.until(playing)
            assert browser.audit() == [], (px, theme)
            browser.picture(tmp_path / f"corpus-{px}-{theme}.png")
    assert browser.run("document.title") == "mine & <b> (vgen prepare)"
    assert browser.run("document.querySelector('.cap[dir]').textContent") == HOSTILE
    asked = [url for url in browser.requests if not url.startswith(("file:", "data:"))]
    assert asked == []
    assert browser.complaints == []
