"""Sources: what becomes a row, under which key, with which caption, and what is rejected at sight."""

from __future__ import annotations

import csv
import http.server
import json
import os
import threading
from dataclasses import replace
from functools import partial

import pytest

from vgen.data.decode import Cut
from vgen.data.download import Fetch
from vgen.data.fields import Needs
from vgen.data.folder_source import FolderSource
from vgen.data.ledger import Reason, Rejected, Rejection, read_ledger
from vgen.data.listing_source import ListingSource
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.sources import Captions, listing_hash, safe_key

CUT = Cut(num_frames=4)


def touch(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def listing(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_captions_lie_beside_the_files(tmp_path):
    for name in ("a.mp4", "b.MOV", "c.webm", "sub dir/a.mp4"):
        touch(tmp_path / name)
    touch(tmp_path / "a.txt", "  one\n line ")
    touch(tmp_path / "b.json", json.dumps({"caption": "two", "rating": 3}))
    touch(tmp_path / "c.json", json.dumps({"caption": "overruled", "rating": 4}))
    touch(tmp_path / "c.txt", "three")
    touch(tmp_path / "sub dir/a.txt", "four")
    touch(tmp_path / "notes.md")
    jobs = FolderSource(path=str(tmp_path)).jobs(CUT)
    assert [(j.row, j.key, j.source, j.caption, j.columns) for j in jobs] == [
        (0, "a", "a.mp4", "one line", {}),
        (1, "b", "b.MOV", "two", {"rating": 3}),
        (2, "c", "c.webm", "three", {"rating": 4}),
        (3, "sub%20dir/a", "sub dir/a.mp4", "four", {}),
    ]


def test_what_has_no_caption_or_a_taken_key_is_rejected_at_sight(tmp_path):
    for name in ("a.mp4", "a.mov", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"):
        touch(tmp_path / name)
    touch(tmp_path / "a.txt", "good")
    touch(tmp_path / "c.txt", " \n")
    touch(tmp_path / "d.json", "{broken")
    touch(tmp_path / "e.json", '{"text": "under another name"}')
    (tmp_path / "f.txt").write_bytes(b"\xff\xfe\x00")
    jobs = FolderSource(path=str(tmp_path)).jobs(CUT)
    assert [(j.source, j.reason) for j in jobs if isinstance(j, Rejection)] == [
        ("a.mp4", Reason.DUPLICATE_KEY),
        *((f"{n}.mp4", Reason.MISSING_CAPTION) for n in "bcdef"),
    ]
    details = {j.source: j.detail for j in jobs if isinstance(j, Rejection)}
    assert details["a.mp4"] == "row 0 has the key 'a' already"
    assert details["b.mp4"] == "neither b.txt nor b.json beside it"
    assert details["d.mp4"].startswith("d.json can't be read")
    assert details["e.mp4"] == "no caption in e.json"


def test_keys_are_plain_and_distinct():
    names = ["a/b", "a_b", "a b", "a%20b", "a.b", "a-b", "猫", "A", "x" * 300, "x" * 299 + "y"]
    keys = [safe_key(n) for n in names]
    assert len(set(keys)) == len(keys)
    assert all(len(k) <= 80 and "." not in k and k.isascii() for k in keys)
    assert safe_key("./a//b") == "a/b"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_listings_of_every_kind_read_alike(tmp_path, suffix):
    rows = [
        {"path": "v/a.mp4", "caption": "one, two", "fps": "30"},
        {"path": "v/b.mp4", "caption": "drei\tvier", "fps": ""},
    ]
    path = tmp_path / f"list{suffix}"
    match suffix:
        case ".csv":
            listing(path, rows)
        case ".tsv":
            path.write_text('path\tcaption\tfps\nv/a.mp4\tone, two\t30\nv/b.mp4\t"drei\tvier"\t\n')
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        case _:
            pyarrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    jobs = ListingSource(path=str(path)).jobs(CUT)
    assert [(j.key, j.caption, j.columns) for j in jobs] == [
        ("v/a", "one, two", {"fps": "30"}),
        ("v/b", "drei vier", {"fps": ""}),
    ]
    assert jobs[0].location == str(tmp_path / "v" / "a.mp4")


def test_columns_may_have_other_names(tmp_path):
    path = listing(tmp_path / "l.csv", [{"file": "a.mp4", "text": "t", "id": "x.1"}])
    [job] = ListingSource(path=str(path), video_column="file", caption_column="text", key_column="id").jobs(
        CUT
    )
    assert (job.key, job.caption, job.columns) == ("x%2E1", "t", {})


def test_a_table_of_semicolons_is_read_as_one(tmp_path):
    """As spreadsheets write it where a comma is in numbers; a semicolon in a caption is none of them."""
    (tmp_path / "l.csv").write_text("path;caption;score\na.mp4;red, then blue;1,5\n", encoding="utf-8-sig")
    (tmp_path / "m.csv").write_text("path,caption\na.mp4,red; then blue\n")
    for name, text in (("l.csv", "red, then blue"), ("m.csv", "red; then blue")):
        [job] = ListingSource(path=str(tmp_path / name)).jobs(CUT)
        assert job.caption == text


def test_rows_of_a_listing_are_rejected_at_sight(tmp_path):
    rows = [
        {"path": "a.mp4", "caption": "t"},
        {"path": "a.mp4", "caption": "again"},
        {"path": "", "caption": "t"},
        {"path": "b.mp4", "caption": " "},
    ]
    jobs = ListingSource(path=str(listing(tmp_path / "l.csv", rows))).jobs(CUT)
    assert [j.reason for j in jobs[1:]] == [Reason.DUPLICATE_KEY, Reason.MISSING_FILE, Reason.MISSING_CAPTION]


def test_a_row_that_cannot_be_read_is_one_row(tmp_path):
    paths = ["a.mp4", ".", "http://[bad/x.mp4", "http://h:abc/x.mp4", "\ud800.mp4", "http://h/."]
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps({"path": p, "caption": "t"}) + "\n" for p in paths))
    first, *rest = ListingSource(path=str(path)).jobs(CUT)
    assert first.key == "a"
    assert [(r.row, r.reason) for r in rest] == [(i, Reason.BAD_ROW) for i in range(1, 6)]
    json.dumps([r.to_dict() for r in rest], ensure_ascii=False).encode()  # the ledger can hold them


def test_keys_may_be_numbers_and_must_be_given(tmp_path):
    path = tmp_path / "l.jsonl"
    rows = [
        {"path": "a.mp4", "id": 0},
        {"path": "b.mp4", "id": 0},
        {"path": "c.mp4", "id": None},
        {"path": "d.mp4", "id": 1},
    ]
    path.write_text("".join(json.dumps(r | {"caption": "t"}) + "\n" for r in rows))
    jobs = ListingSource(path=str(path), key_column="id").jobs(CUT)
    assert [jobs[0].key, jobs[3].key] == ["0", "1"]
    assert [(j.reason, j.detail) for j in jobs[1:3]] == [
        (Reason.DUPLICATE_KEY, "row 0 has the key '0' already"),
        (Reason.BAD_ROW, "the row can't be read: column 'id' is empty"),
    ]


def test_a_caption_that_is_no_text_is_said(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text('{"path": "a.mp4", "caption": 3}\n')
    [rejection] = ListingSource(path=str(path)).jobs(CUT)
    assert (rejection.reason, rejection.detail) == (Reason.MISSING_CAPTION, "column 'caption' holds no text")


def test_links_are_followed_and_those_that_lead_nowhere_are_rows(tmp_path):
    touch(tmp_path / "in/a.mp4")
    touch(tmp_path / "elsewhere/c.mp4")
    (tmp_path / "in/b.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")  # a circle
    for name in ("in/a", "in/b", "elsewhere/c"):
        touch(tmp_path / f"{name}.txt", "t")
    jobs = FolderSource(path=str(tmp_path / "in")).jobs(CUT)
    assert [j.source for j in jobs] == ["a.mp4", "b.mp4", "linked/c.mp4"]
    with pytest.raises(Rejected) as caught:
        list(jobs[1].samples(tmp_path))
    assert caught.value.reason is Reason.MISSING_FILE


def test_a_name_that_is_no_text_is_a_row_like_any(tmp_path, studio):
    """Names on a disk are bytes."""
    studio.write_video(tmp_path / "a.mp4", 24, 1.0)
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / "a.mp4").rename(tmp_path / name)
    (tmp_path / name).with_suffix(".txt").write_text("a bar")
    [job] = FolderSource(path=str(tmp_path)).jobs(CUT)
    assert (job.key, job.source) == ("caf%E9", "caf\\udce9.mp4")
    assert [s.id for s in job.samples(tmp_path)] == ["caf%E9-0000", "caf%E9-0001"]


def test_sidecars_that_cannot_be_read_are_named_by_their_own_name(tmp_path):
    for name in "abc":
        touch(tmp_path / f"{name}.mp4")
    touch(tmp_path / "a.json", '{"caption": "good"}')
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    touch(tmp_path / "b.json", "[" * 100_000)
    touch(tmp_path / "c.json", '{"caption": "good"}')
    touch(tmp_path / "c.txt", "")
    a, b, c = FolderSource(path=str(tmp_path)).jobs(CUT)
    assert a.detail.startswith("a.txt can't be read")
    assert b.detail.startswith("b.json can't be read")
    assert c.caption == "good"


@pytest.mark.parametrize("settings", [{"timeout_seconds": 0.0}, {"max_download_megabytes": float("inf")}])
def test_bounds_of_a_download_are_bounds(settings):
    with pytest.raises(ValueError, match="must be positive and finite"):
        ListingSource(path="l.csv", **settings)


def test_columns_must_differ(tmp_path):
    path = listing(tmp_path / "l.csv", [{"path": "a.mp4", "caption": "t"}])
    with pytest.raises(ValueError, match="must differ, got path, path"):
        ListingSource(path=str(path), caption_column="path").jobs(CUT)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "path,caption,caption\na,b,c\n", "more than one column 'caption'"),
        ("l.jsonl", "[" * 100_000, "line 1 is not JSON"),
        (
            "l.csv",
            "path,text\na,b\n",
            "has no column 'caption'; it has path, text: name yours by data.video_column=",
        ),
        ("l.csv", "path,caption\na\n", "line 2: as many values as columns"),
        ("l.csv", "path,caption\n", "has no row"),
        ("l.csv", "", "it has none"),
        ("l.jsonl", '{"path": "a"}\n{oops\n', "line 2 is not JSON"),
        ("l.jsonl", "[1]\n", "must hold one object, got a list"),
        ("l.jsonl", '{"url": "a"}\n', "has no column 'path'; it has url"),
        ("l.parquet", "junk", "is no readable Parquet file"),
        ("l.xlsx", "", "must end in .csv"),
    ],
)
def test_mistakes_in_a_listing_speak(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        ListingSource(path=str(tmp_path / name)).jobs(CUT)


def test_mistakes_about_the_source_speak(tmp_path):
    for source, message in [
        (FolderSource(), "data.path=FOLDER"),
        (FolderSource(path=str(tmp_path / "no")), "is no folder; for a .csv"),
        (FolderSource(path=str(tmp_path)), "holds no video; looked for .mp4"),
        (ListingSource(), "data.path=FILE.csv"),
        (ListingSource(path=str(tmp_path / "no.csv")), "does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            source.jobs(CUT)


def test_a_changed_source_is_noticed(tmp_path):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "a.txt", "one")
    source = FolderSource(path=str(tmp_path))
    before = listing_hash(source.jobs(CUT))
    assert listing_hash(source.jobs(CUT)) == before
    touch(tmp_path / "a.txt", "other")
    after_caption = listing_hash(source.jobs(CUT))
    touch(tmp_path / "a.mp4", "longer")
    assert len({before, after_caption, listing_hash(source.jobs(CUT))}) == 3


class Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/gone"):
            self.send_error(404)
        elif self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path.startswith("/short"):
            self.send_response(200)
            self.send_header("Content-Length", "99")
            self.end_headers()
            self.wfile.write(b"few")
        elif self.path.startswith("/slow"):
            stop.wait(5)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


stop = threading.Event()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "site"
    root.mkdir()
    stop.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield root, f"http://127.0.0.1:{server.server_address[1]}"
        stop.set()
        server.shutdown()
        thread.join()


def test_downloads_are_bounded_and_failures_keep_secrets(site, tmp_path):
    root, address = site
    (root / "a.mp4").write_bytes(bytes(5000))
    assert Fetch(5000, 5)(f"{address}/a.mp4?token=SECRET", tmp_path).stat().st_size == 5000
    for fetch, url, reason in [
        (Fetch(4999, 5), f"{address}/a.mp4?token=SECRET", Reason.TOO_LARGE),
        (Fetch(5000, 5), f"{address}/gone?token=SECRET", Reason.UNREACHABLE),
        (Fetch(5000, 5), f"{address}/away?token=SECRET", Reason.UNREACHABLE),
        (Fetch(5000, 5), f"{address}/short?token=SECRET", Reason.UNREACHABLE),
        (Fetch(5000, 0.2), f"{address}/slow?token=SECRET", Reason.UNREACHABLE),
        (Fetch(5000, 5), "http://me:SECRET@127.0.0.1:1/x", Reason.UNREACHABLE),
        (Fetch(5000, 5), "file:///etc/passwd", Reason.UNREACHABLE),
        (Fetch(5000, 5), "pipe://touch x", Reason.UNREACHABLE),
    ]:
        with pytest.raises(Rejected) as caught:
            fetch(url, tmp_path)
        assert caught.value.reason is reason, caught.value
        assert "SECRET" not in str(caught.value)


def test_a_full_disk_is_not_the_addresss_fault(site, tmp_path):
    root, address = site
    (root / "a b\u00e9.mp4").write_bytes(bytes(5000))
    assert (
        Fetch(5000, 5)(f"{address}/a b\u00e9.mp4", tmp_path).stat().st_size == 5000
    )  # letters that a request must spell otherwise
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "download").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Fetch(5000, 5)(f"{address}/a b\u00e9.mp4", tmp_path / "full")


def test_a_video_at_an_address_becomes_clips(site, studio, tmp_path):
    root, address = site
    studio.write_video(root / "a.mp4", 24, 1.0)
    rows = [{"path": f"{address}/a.mp4?token=SECRET", "caption": "from afar", "fps": "24", "given_fps": "30"}]
    source = ListingSource(path=str(listing(tmp_path / "l.csv", rows)))
    [job] = source.jobs(CUT)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    samples = list(job.samples(scratch))
    assert not list(scratch.iterdir())
    assert [s.metadata["clip"] for s in samples] == [0, 1]
    assert samples[0].metadata["source"] == f"{address}/a.mp4"
    assert {k: v for k, v in samples[0].metadata.items() if "fps" in k and k.startswith("given")} == {
        "given_fps": "30",
        "given_given_fps": "24",
    }
    assert "SECRET" not in repr(samples[0].metadata) + samples[0].id


def test_names_that_no_text_or_no_file_can_hold_are_rows_of_the_ledger(tmp_path, studio):
    """A name of bytes, one as long as a name may be, whose caption would be longer, and one that no file can
    have."""
    folder = tmp_path / "in"
    studio.caption(studio.write_video(folder / "good.mp4", 24, 1.0))
    (folder / os.fsdecode(b"bad\xff.mp4")).touch()
    long = studio.write_video(folder / ("l" * 251 + ".mp4"), 24, 1.0)
    long.with_suffix(".txt").write_text("a bar")
    done = studio.run(folder, tmp_path / "out")
    assert done.manifest.counts["clips"] == 2
    [rejection] = read_ledger(tmp_path / "out")
    assert (rejection.source, rejection.reason) == ("bad\\udcff.mp4", Reason.MISSING_CAPTION)
    assert "neither bad\\udcff.txt nor bad\\udcff.json" in rejection.detail
    rows = [{"path": "in/good.mp4", "caption": "a bar"}, {"path": "x" * 300 + ".mp4", "caption": "no file"}]
    wish = Prepare(
        data=ListingSource(path=str(listing(tmp_path / "l.csv", rows))),
        out=str(tmp_path / "listed"),
        num_frames=8,
        size_px=32,
    )
    prepare(replace(wish, num_processes=1))
    [rejection] = read_ledger(tmp_path / "listed")
    assert (rejection.row, rejection.reason) == (1, Reason.MISSING_FILE)


def test_captions_may_be_optional(tmp_path, studio):
    """A row without one becomes clips without one; a caption that can't be used is still a reject."""
    folder = tmp_path / "in"
    studio.caption(studio.write_video(folder / "a.mp4", 24, 1.0), "a bar")
    studio.write_video(folder / "b.mp4", 24, 1.0)
    studio.write_video(folder / "c.mp4", 24, 1.0).with_suffix(".txt").write_bytes(b"\xff\xfe\xff")
    source = FolderSource(path=str(folder), captions=Captions.OPTIONAL)
    wish = replace(studio.wish(folder, tmp_path / "out"), data=source)
    assert wish.settings()["data.captions"] == "optional"
    assert "data.captions" not in studio.wish(folder, tmp_path / "out").settings()
    prepare(wish)
    [rejection] = read_ledger(tmp_path / "out")
    assert (rejection.source, rejection.reason) == ("c.mp4", Reason.MISSING_CAPTION)
    reader = ShardReader(tmp_path / "out", Needs(frozenset({"video"}), frozenset({"caption"})))
    assert [(s.id, s.caption) for s in reader] == [("a-0000", "a bar"), ("b-0000", None)]
    rows = [{"path": "in/a.mp4"}, {"path": "in/b.mp4"}]
    listed = ListingSource(path=str(listing(tmp_path / "l.csv", rows)), captions=Captions.OPTIONAL)
    assert [job.caption for job in listed.jobs(CUT)] == [None, None]
