"""From a folder of shards, one clip or a folder of pictures to what is trained on and what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vgen.data.cache import LatentCache
from vgen.data.clips import Clips, Window
from vgen.data.decode import Cut
from vgen.data.fields import FIELDS, Needs
from vgen.data.given import read_field
from vgen.data.one_clip import OneClip, read_clip
from vgen.data.pictures import read_pictures
from vgen.data.reader import ShardReader
from vgen.data.subject import Subject
from vgen.spec import field, spec
from vgen.training.held_out import HeldOut, held_out, source_of


@spec
class Corpus:
    """Where the clips are and how they are read.

    ``batch_size`` is per process and step; ``cache`` encodes pixels and text once, before the first step,
    into ``cache_dir`` (by default beside the shards). ``val_clips`` samples are held out, whole videos that
    ``val_seed`` chooses (:mod:`vgen.training.held_out`), unless ``val_path`` names others. ``paraphrases``
    adds another caption of the same scene to every sample, ``num_distractors`` up to so many that are wrong
    in one fact (toybox corpora only).

    ``stills`` is another folder of shards, of which single frames with their captions are the batches in a
    share ``stills_share``; held out are clips alone.

    Instead of shards, ``video`` names one file and ``prompt`` its caption; it is read at ``fps`` from
    ``start_seconds`` on, as long as the window, ``size_px`` square (0: the image model's own size).
    ``given`` names files of further fields of it; those that are not given are found in it where that is
    possible. Or ``images`` names a folder of pictures, ``prompt`` the template of their captions; one that is
    not square is cut at ``num_crops`` places.

    ``prior_path`` holds clips of what was known before, as many of which go beside those of every batch.

    ``audit`` keeps a ledger of every sample that a step was trained on (:mod:`vgen.data.audit`).
    """

    path: str = ""
    video: str = ""
    images: str = ""
    num_crops: int = 1
    prior_path: str | None = None
    prompt: str = ""
    given: dict[str, str] = field(default_factory=dict)
    fps: float = 8.0
    start_seconds: float = 0.0
    size_px: int = 0
    window: Window = field(default_factory=Window)
    batch_size: int = 4
    val_path: str | None = None
    val_clips: int = 32
    val_seed: int = 0
    num_workers: int = 0
    cache: bool = False
    cache_dir: str | None = None
    paraphrases: bool = False
    num_distractors: int = 0
    stills: str = ""
    stills_share: float = 0.0
    audit: bool = False

    def named(self) -> str:
        """What the clips are named by, as the key and its value."""
        key = "images" if self.images else "video" if self.video else "path"
        return f"data.{key}={getattr(self, key)}"

    def __post_init__(self) -> None:
        if self.given and not self.video:
            raise ValueError(
                f"data.given names files of a single clip, got {', '.join(self.given)} without data.video; "
                "shards bring their own fields"
            )
        if not 0 <= self.stills_share < 1:
            raise ValueError(
                f"data.stills_share is a share of the batches, 0 to below 1, got {self.stills_share:g}"
            )
        if self.stills and self.prior_path:
            raise ValueError(
                f"data.stills={self.stills} and data.prior_path={self.prior_path} are both given; a training "
                "has stills among its batches or a prior beside each of them: leave one out"
            )
        if bool(self.stills) != bool(self.stills_share):
            raise ValueError(
                f"data.stills_share={self.stills_share:g} asks for stills and data.stills={self.stills!r} "
                "names their shards; give both or neither"
            )
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {self.batch_size}")
        if self.val_clips < 1:
            raise ValueError(
                f"data.val_clips must be at least 1, got {self.val_clips}; held-out figures need something "
                "to be computed on"
            )
        self._refuse_idle()
        if self.paraphrases and self.cache:
            raise ValueError(
                "data.paraphrases=true needs each sample's scene, which data.cache=true does not keep; set "
                "data.cache=false"
            )
        if self.num_workers < 0:
            raise ValueError(
                f"data.num_workers must not be negative, got {self.num_workers}; 0 reads in the training "
                "process itself"
            )

    def _refuse_idle(self) -> None:
        """Raises ValueError for a setting that nothing reads beside the others."""
        of_a_clip = {"prompt": "", "fps": 8.0, "start_seconds": 0.0, "size_px": 0}
        given = [name for name, usual in of_a_clip.items() if getattr(self, name) != usual]
        if self.path and not self.video and not self.images and given:
            raise ValueError(
                f"data.{given[0]}={getattr(self, given[0])} is of one clip, data.video=FILE, and does "
                f"nothing beside data.path={self.path}, whose clips are cut and captioned; say it to 'vgen "
                "prepare'"
            )
        if self.video and self.val_path is not None:
            raise ValueError(
                f"data.val_path={self.val_path} does nothing beside data.video={self.video}, which is "
                "validated on itself; leave it out"
            )
        if self.cache_dir is not None and not self.cache:
            raise ValueError(
                f"data.cache_dir={self.cache_dir} does nothing without a cache; add data.cache=true or leave "
                "it out"
            )


@dataclass(slots=True)
class Split:
    """Training and held-out clips, how they were told apart, and those of the prior or stills where there are
    any."""

    train: Clips | LatentCache
    val: Clips | LatentCache
    told: str = ""
    prior: Clips | LatentCache | None = None
    stills: Clips | LatentCache | None = None

    @property
    def num_train(self) -> int:
        return len(self.train)


def split(
    corpus: Corpus, seed: int, size_px: int, needs: Needs | None = None, subject: Subject | None = None
) -> Split:
    """Open the shards, or the one clip or pictures at ``size_px``, for what ``needs`` names (by default video
    and caption); ``subject`` is what is asked of them beside that.

    Members that nothing reads are named once in the log. Raises ValueError where there is nothing to train
    on, and where a sample lacks what is required.
    """
    needs, subject = needs or Needs(), subject or Subject()
    subject.refuse_prior(corpus.prior_path)
    parts = _split(corpus, seed, size_px, needs)
    assert isinstance(parts.train, Clips)  # of _split()
    subject.refuse_unfit(parts.train, corpus.named())
    if corpus.prior_path:
        reader = _beside("data.prior_path", corpus.prior_path, needs)
        parts.prior = Clips(reader, corpus.window, seed, range(len(reader)), needs)
        subject.refuse_unfit_prior(parts.prior, f"data.prior_path={corpus.prior_path}")
    return parts


def _split(corpus: Corpus, seed: int, size_px: int, needs: Needs) -> Split:
    if corpus.images:
        return _of_pictures(corpus, seed, size_px, needs)
    if corpus.video:
        one = Clips(_one_clip(corpus, size_px, needs), corpus.window, seed, range(1), needs)
        told = "nothing is held out of a single clip: its validation figures are of the clip itself"
        return Split(one, one, told)
    if not corpus.path:
        raise ValueError(
            "data.path names no folder of shards; make one with 'vgen prepare' and give data.path=FOLDER"
        )
    reader = ShardReader(Path(corpus.path), needs)
    held = reader if corpus.val_path is None else ShardReader(Path(corpus.val_path), needs)
    rows = _rows(corpus, reader) if corpus.val_path is None else _all_and(corpus, reader, held)
    fixed = Window(num_frames=corpus.window.num_frames, stride_frames=corpus.window.stride_frames)
    parts = Split(
        Clips(reader, corpus.window, seed, rows.train, needs),
        Clips(held, fixed, seed, rows.val, needs),
        rows.told,
        stills=_stills(corpus, seed, needs),
    )
    for shards in {reader.folder: reader, held.folder: held}.values():
        shards.name_unread()
    return parts


def _of_pictures(corpus: Corpus, seed: int, size_px: int, needs: Needs) -> Split:
    if corpus.path or corpus.video:
        raise ValueError(
            f"data.images={corpus.images} and data.{'path' if corpus.path else 'video'}="
            f"{corpus.path or corpus.video} are both given; train on one of them"
        )
    size_px = corpus.size_px or size_px
    pictures = read_pictures(corpus.images, corpus.prompt, size_px, corpus.num_crops)
    rows, still = range(len(pictures)), Window(num_frames=corpus.window.num_frames)
    told = f"nothing is held out of {len(pictures)} pictures: validation figures are of themselves"
    return Split(
        Clips(pictures, corpus.window, seed, rows, needs), Clips(pictures, still, seed, rows, needs), told
    )


def _stills(corpus: Corpus, seed: int, needs: Needs) -> Clips | None:
    """Single frames with captions. Raises ValueError where a sample has none, and where there is no
    sample."""
    if not corpus.stills:
        return None
    captioned = Needs(needs.required | {"caption"}, needs.optional - {"caption"})
    reader = _beside("data.stills", corpus.stills, captioned)
    if not len(reader):
        raise ValueError(
            f"data.stills={corpus.stills} has no sample, and data.stills_share={corpus.stills_share:g} of "
            "the batches are to be stills; prepare some with 'vgen prepare data=images data.path=FOLDER'"
        )
    return Clips(reader, Window(num_frames=1), seed, range(len(reader)), captioned)


def _beside(key: str, path: str, needs: Needs) -> ShardReader:
    """Shards that are read beside the clips. Raises ValueError, with their key, where they are none."""
    try:
        return ShardReader(Path(path), needs)
    except ValueError as error:
        raise ValueError(f"{key}={path}: {error}") from error


def _rows(corpus: Corpus, reader: ShardReader) -> HeldOut:
    if len(reader) <= corpus.val_clips:
        raise ValueError(
            f"{corpus.path} has {len(reader)} clips of which data.val_clips={corpus.val_clips} are held out; "
            "lower data.val_clips or prepare more clips"
        )
    sources = [source_of(reader.metadata(row), reader.key(row)) for row in range(len(reader))]
    return held_out(sources, corpus.val_clips, corpus.val_seed)


def _all_and(corpus: Corpus, reader: ShardReader, held: ShardReader) -> HeldOut:
    num = min(len(held), corpus.val_clips)
    return HeldOut(
        range(len(reader)), range(num), f"held out: {num} clips of data.val_path={corpus.val_path}"
    )


def _one_clip(corpus: Corpus, size_px: int, needs: Needs) -> OneClip:
    if corpus.path:
        raise ValueError(
            f"data.path={corpus.path} and data.video={corpus.video} are both given; train on one of them"
        )
    if corpus.stills:
        raise ValueError(
            f"data.stills={corpus.stills} goes with shards of clips, got data.video={corpus.video}; give "
            "data.path=FOLDER, or leave data.stills and data.stills_share out"
        )
    if not corpus.prompt and "caption" in needs.required:
        raise ValueError(
            f'data.prompt says nothing about {corpus.video}; give data.prompt="what the clip shows"'
        )
    cut = Cut(fps=corpus.fps, num_frames=corpus.window.span(), size_px=corpus.size_px or size_px)
    fields = {
        name: read_field(name, Path(file).expanduser(), cut, corpus.start_seconds)
        for name, file in corpus.given.items()
    }
    for name, array in fields.items():
        FIELDS[name].check(array, f"data.given.{name}={corpus.given[name]}")
    video = read_clip(corpus.video, cut, corpus.start_seconds)
    return OneClip(video, corpus.prompt, corpus.fps, fields)
