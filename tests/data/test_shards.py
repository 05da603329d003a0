"""Shards: what is written is what is read, and what is not whole or not plain is refused."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import tarfile
from dataclasses import asdict, replace

import numpy as np
import pytest

from vgen.data.index import ShardIndex, index_path, index_shard
from vgen.data.manifest import Manifest
from vgen.data.reader import ShardReader
from vgen.data.sample import Encoding, Sample, Video, pack, unpack
from vgen.data.writer import ShardWriter

NPY = Encoding(video=Video.npy)


def some_samples(count: int = 7, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    videos = [rng.integers(0, 256, (int(rng.integers(1, 4)), 8, 10, 3), dtype=np.uint8) for _ in range(count)]
    return [
        Sample(f"deep/er/s{i:03d}", v, f"caption {i} é 猫", {"fps": 8.0, "n": i, "tags": ["a", None]})
        for i, v in enumerate(videos)
    ]


def write(folder, samples, shard_bytes=6000, encoding=NPY) -> Manifest:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, shard_bytes) as writer:
        for sample in samples:
            writer.write(sample.id, pack(sample, encoding))
    manifest = Manifest(
        source={"listing": ""}, settings={}, counts={}, shards=writer.shards, vgen_version="0"
    )
    manifest.write(folder)
    return manifest


def same(a: Sample, b: Sample) -> bool:
    return (a.id, a.caption, a.metadata) == (b.id, b.caption, b.metadata) and np.array_equal(a.video, b.video)


def test_reading_inverts_writing(tmp_path):
    samples = some_samples(20)
    manifest = write(tmp_path, samples)
    assert len(manifest.shards) > 3
    assert all(s.size <= 6000 for s in manifest.shards)
    with ShardReader(tmp_path) as reader:
        assert len(reader) == 20
        assert all(map(same, reader, samples))
        assert same(reader[-1], samples[-1])
        assert reader.key(3) == samples[3].id
        with pytest.raises(IndexError):
            reader[20]


def test_bytes_depend_on_the_samples_alone(tmp_path, studio):
    write(tmp_path / "a", some_samples())
    write(tmp_path / "b", some_samples())
    assert studio.contents(tmp_path / "a") == studio.contents(tmp_path / "b")


def test_the_index_of_our_shards_is_what_a_stranger_would_find(tmp_path):
    for shard in write(tmp_path, some_samples()).shards:
        assert index_shard(tmp_path / shard.name) == ShardIndex.read(tmp_path / shard.name)


def test_any_tool_reads_our_shards(tmp_path):
    samples = some_samples(5)
    manifest = write(tmp_path, samples, shard_bytes=10**6)
    with tarfile.open(tmp_path / manifest.shards[0].name) as tar:
        assert tar.getnames()[:3] == [f"deep/er/s000.{e}" for e in ("npy", "txt", "json")]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}


def test_webdataset_reads_our_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    tariterators = pytest.importorskip("webdataset.tariterators")
    samples = some_samples(5)
    manifest = write(tmp_path, samples, shard_bytes=10**6)
    with open(
        tmp_path / manifest.shards[0].name, "rb"
    ) as stream:  # its WebDataset class leaves the file open
        found = list(
            tariterators.group_by_keys(tariterators.tar_file_expander([{"url": "shard", "stream": stream}]))
        )
    assert [(f["__key__"], f["txt"].decode()) for f in found] == [(s.id, s.caption) for s in samples]


def test_a_reader_survives_pickle_and_fork(tmp_path):
    samples = some_samples(12)
    write(tmp_path, samples)
    reader = ShardReader(tmp_path)
    assert same(reader[0], samples[0])
    assert same(pickle.loads(pickle.dumps(reader))[5], samples[5])
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        assert all(map(same, pool.map(reader.__getitem__, range(12)), samples))


def test_an_unfinished_writer_leaves_no_shard(tmp_path):
    writer = ShardWriter(tmp_path, 10**6)
    writer.write("a", {"txt": b"x"})
    writer.__exit__(KeyError, KeyError(), None)
    assert not list(tmp_path.glob("shard*"))


def test_a_shard_that_was_cut_changed_or_lost_is_refused(tmp_path):
    manifest = write(tmp_path, some_samples())
    tar = tmp_path / manifest.shards[1].name
    sound = tar.read_bytes()
    tar.write_bytes(sound[:-512])
    with pytest.raises(ValueError, match="was cut or changed"):
        ShardReader(tmp_path)
    changed = bytearray(sound)
    changed[700] ^= 1
    tar.write_bytes(changed)
    reader = ShardReader(tmp_path)
    with pytest.raises(ValueError, match="differs from its checksum"):
        list(reader)
    tar.unlink()
    with pytest.raises(ValueError, match="is missing where its index says"):
        ShardReader(tmp_path)


def test_a_damaged_index_or_manifest_is_refused(tmp_path):
    manifest = write(tmp_path, some_samples())
    index = index_path(tmp_path / manifest.shards[0].name)
    sound = index.read_text()
    for broken in (
        sound[:40],
        "[]",
        sound.replace('"version":1', '"version":9'),
        sound.replace('"offset":512', '"offset":99999999'),
    ):
        index.write_text(broken)
        with pytest.raises(ValueError, match="is damaged or of another kind"):
            ShardReader(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match="has no index"):
        ShardReader(tmp_path)
    index.write_text(sound)
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "content_hash": "0"}))
    with pytest.raises(ValueError, match="content hash does not follow"):
        ShardReader(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        ShardReader(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no finished shards"):
        ShardReader(tmp_path)


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path):
    manifest = write(tmp_path / "in", some_samples())
    (tmp_path / "out.tar").write_bytes(b"")
    bad = [
        type(s)(name="../out.tar", size=s.size, num_samples=s.num_samples, sha256=s.sha256)
        for s in manifest.shards
    ]
    Manifest(source={}, settings={}, counts={}, shards=bad, vgen_version="0").write(tmp_path / "in")
    with pytest.raises(ValueError, match=r"no plain \.tar beside it"):
        ShardReader(tmp_path / "in")


class Evil:
    """Unpickling it would leave a mark."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def tar_of(path, *members):
    """A tar of (name, payload) or of ready TarInfos."""
    with tarfile.open(path, "w") as tar:
        for name, payload in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return path


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../a.txt", b"x")], "a name that leaves its folder"),
        ([("b/../../a.txt", b"x")], "a name that leaves its folder"),
        ([("/etc/a.txt", b"x")], "a name that leaves its folder"),
        ([(link(tarfile.SYMTYPE), b"")], "a link or a device"),
        ([(link(tarfile.LNKTYPE), b"")], "a link or a device"),
        ([(link(tarfile.CHRTYPE), b"")], "a link or a device"),
        ([("a.txt", b"x"), ("a.pkl", pickle.dumps(Evil()))], "holds the pickle 'a.pkl'"),
        ([("a.extra.PYD", b"x")], "holds the pickle"),
        ([("a.txt", b"x"), ("a.txt", b"y")], "holds the member 'a.txt' twice"),
        ([("a.txt", b"x"), ("b.txt", b"y"), ("a.json", b"{}")], "holds the sample 'a' twice"),
        ([], "holds no sample"),
    ],
)
def test_a_strangers_tar_that_is_not_plain_is_refused(tmp_path, monkeypatch, members, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        index_shard(tar_of(tmp_path / "a.tar", *members))
    assert not (tmp_path / "executed").exists()


def test_a_strangers_tar_that_was_cut_is_refused(tmp_path):
    payload = tar_of(
        tmp_path / "whole.tar", ("a.txt", b"x" * 3000), ("a.json", b"{}"), ("b.txt", b"y")
    ).read_bytes()
    assert [e.key for e in index_shard(tmp_path / "whole.tar").samples] == ["a", "b"]
    path = tmp_path / "cut.tar"
    for length in (
        512 + 3072,
        512 + 3072 + 1024,
        700,
        100,
        0,
    ):  # at member boundaries, inside a member, inside a header, empty
        path.write_bytes(payload[:length])
        with pytest.raises(ValueError, match=r"was cut|is cut"):
            index_shard(path)


def test_unpacking_executes_nothing_and_is_bounded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    np.save(file, np.array([Evil()], object), allow_pickle=True)
    sound = pack(some_samples(1)[0], NPY)
    for change, message in [
        ({"npy": file.getvalue()}, "a.npy can't be read"),
        ({"npy": b"junk"}, "a.npy can't be read"),
        ({"npy": sound["npy"][:-5]}, "a.npy can't be read"),
        ({"json": b"[" * 100_000}, "a.json can't be read"),
        ({"json": b"[]"}, "it must hold an object"),
        ({"json": b" " * (2 << 20)}, "bytes where 1,048,576 are allowed"),
        ({"txt": b"\xff"}, "a.txt can't be read"),
    ]:
        with pytest.raises(ValueError, match=message):
            unpack("a", {**sound, **change})
    with pytest.raises(ValueError, match=r"has no \.txt"):
        unpack("a", {"npy": sound["npy"]})
    with pytest.raises(ValueError, match="has only json, txt"):
        unpack("a", {"txt": b"", "json": b"{}"})
    with pytest.raises(ValueError, match=r"a\.mp4 can't be read"):
        unpack("a", {"txt": b"", "json": b"{}", "mp4": b"junk"})
    assert not (tmp_path / "executed").exists()


def test_a_sample_must_be_a_video():
    with pytest.raises(ValueError, match="must be uint8 f h w 3, got float32"):
        Sample("a", np.zeros((1, 8, 8, 3), np.float32), "")


def test_metadata_holds_what_json_can():
    sample = Sample(
        "a", np.zeros((1, 8, 8, 3), np.uint8), "", {"nan": float("nan"), "n": np.int64(3), "kind": Video.npy}
    )
    assert unpack("a", pack(sample, NPY)).metadata == {"nan": None, "n": 3, "kind": "npy"}


def swapped(samples: list[dict]) -> None:
    one, other = samples[0]["members"], samples[1]["members"]
    one["txt"], other["txt"] = other["txt"], one["txt"]


def test_an_index_that_was_changed_is_refused(tmp_path):
    """Captions that change places lie within the shard and have their checksums; the index has one of its
    own."""
    manifest = write(tmp_path, some_samples(4), shard_bytes=10**6)
    index = index_path(tmp_path / manifest.shards[0].name)
    data = json.loads(index.read_text())
    swapped(data["samples"])
    index.write_text(json.dumps(data, separators=(",", ":"), ensure_ascii=False))
    with pytest.raises(ValueError, match="is not the one that was written with its shard"):
        ShardReader(tmp_path)
    shards = [type(s)(**{**asdict(s), "index_sha256": "0" * 64}) for s in manifest.shards]
    assert replace(manifest, shards=shards).content_hash != manifest.content_hash


def test_folders_of_older_versions_keep_their_hash_and_are_read(tmp_path):
    manifest = write(tmp_path, some_samples(4))
    older = [type(s)(**{**asdict(s), "index_sha256": ""}) for s in manifest.shards]
    before = replace(manifest, shards=older)
    lines = "".join(f"{s.name} {s.sha256}\n" for s in older)
    assert before.content_hash == hashlib.sha256(lines.encode()).hexdigest()
    before.write(tmp_path)
    assert len(ShardReader(tmp_path)) == 4


FORGED = {
    "a key twice": (lambda s: s[1].update(key=s[0]["key"]), "is there twice"),
    "a key that leads out": (lambda s: s[0].update(key="../../x"), "a name that leaves its folder"),
    "an absolute key": (lambda s: s[0].update(key="/etc/x"), "a name that leaves its folder"),
    "a key that moves the cursor": (lambda s: s[0].update(key="a\x1b[2J"), "a name that leaves its folder"),
    "a key that is none": (lambda s: s[0].update(key=3), "has no name"),
    "members on one another": (
        lambda s: s[0]["members"].update(txt=s[0]["members"]["json"]),
        "lies on another one",
    ),
    "a size beyond all numbers": (lambda s: s[0]["members"]["txt"].update(size=1e400), "is damaged"),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_an_index_without_a_hash_is_checked_against_itself(tmp_path, forgery):
    forge, message = FORGED[forgery]
    manifest = write(tmp_path, some_samples(4), shard_bytes=10**6)
    older = [type(s)(**{**asdict(s), "index_sha256": ""}) for s in manifest.shards]
    replace(manifest, shards=older).write(tmp_path)
    index = index_path(tmp_path / manifest.shards[0].name)
    data = json.loads(index.read_text())
    forge(data["samples"])
    index.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as caught:
        ShardReader(tmp_path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_an_index_or_manifest_without_end_is_refused(tmp_path, depth):
    manifest = write(tmp_path, some_samples(2))
    endless = "[" * depth + "]" * depth
    index_path(tmp_path / manifest.shards[0].name).write_text(endless)
    with pytest.raises(ValueError, match=r"index .* is (damaged|not the one)"):
        ShardReader(tmp_path)
    (tmp_path / "manifest.json").write_text(endless)
    with pytest.raises(ValueError, match=r"manifest .* is damaged"):
        ShardReader(tmp_path)
