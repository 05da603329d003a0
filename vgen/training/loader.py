"""From a folder of shards to batches: the split, the stateless order, the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from vgen.data.batch import Batch, Encoder
from vgen.data.cache import LatentCache
from vgen.data.cache_building import Builders
from vgen.data.clips import Batches, Clip, Clips, Window, clip_rng
from vgen.data.collate import frame_rates, stacked
from vgen.data.decode import Cut
from vgen.data.fields import FIELDS, Needs
from vgen.data.given import read_field
from vgen.data.mixture import MixedBatches, Mixture
from vgen.data.one_clip import OneClip, read_clip
from vgen.data.order import StatelessSampler
from vgen.data.pictures import read_pictures
from vgen.data.reader import ShardReader
from vgen.data.stills import ClipAndStillBatches, ClipsAndStills
from vgen.data.subject import Subject
from vgen.data.toybox import paraphrased, wrong_in_one_fact
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
        if self.path and not self.video and given:
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
        reader = ShardReader(Path(corpus.prior_path), needs)
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
    reader = ShardReader(Path(corpus.stills), captioned)
    if not len(reader):
        raise ValueError(
            f"data.stills={corpus.stills} has no sample, and data.stills_share={corpus.stills_share:g} of "
            "the batches are to be stills; prepare some with 'vgen prepare data.stills=true'"
        )
    return Clips(reader, Window(num_frames=1), seed, range(len(reader)), captioned)


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


def cached(parts: Split, corpus: Corpus, encoder: Encoder, builders: Builders) -> Split:
    """The same split read from latent caches, which ``builders`` write where they are not there."""
    out: dict[str, Any] = {}
    for name in ("train", "val", "prior", "stills"):
        clips = getattr(parts, name)
        if clips is not None:
            assert isinstance(clips, Clips)  # of split(): no cache of a cache
            folder = Path(corpus.cache_dir) if corpus.cache_dir else Path(clips.reader.folder) / ".cache"
            out[name] = LatentCache.open_or_build(folder, name, clips, encoder, builders)
    return replace(parts, **out)


@dataclass(slots=True)
class Collate:
    """A picklable collate function. Whether a batch is a coarse one (see Window) hangs on its first sample,
    epoch and ``seed`` alone."""

    paraphrases: bool = False
    num_distractors: int = 0
    coarse_share: float = 0.0
    seed: int = 0

    def __call__(self, clips: list[Clip]) -> Batch:
        if self.coarse_share and clip_rng(self.seed, *clips[0].key, "coarse").random() < self.coarse_share:
            clips = [clip.every(2) for clip in clips]
        batch = Batch(
            keys=[clip.key for clip in clips],
            captions=[clip.caption for clip in clips],
            at=torch.stack([torch.from_numpy(clip.at) for clip in clips]),
            paraphrases=paraphrased(clips) if self.paraphrases else [],
            distractors=wrong_in_one_fact(clips, self.num_distractors),
        )
        batch.rates = frame_rates(clips)
        batch.fields, batch.present = stacked(clips)
        return batch


def collate_of(corpus: Corpus) -> Collate:
    return Collate(corpus.paraphrases, corpus.num_distractors)


def loaders(
    parts: Split, corpus: Corpus, seed: int, num_draws: int, consumed: int, rank: int, world_size: int
) -> tuple[DataLoader, DataLoader]:
    """Training and validation loaders of one rank. The training loader is as long as the whole run of
    ``num_draws`` samples, and gives those from ``consumed`` on."""
    stack = collate_of(corpus)
    coarse = replace(stack, coarse_share=corpus.window.coarse_share, seed=seed)
    ranks = Ranks(seed, corpus.batch_size, consumed, num_draws, rank, world_size)
    shown, order = mixed(parts, corpus, ranks)
    held = cast(Dataset[Clip], parts.val)  # data sets by what they do, not by inheritance
    train = Continued(
        ranks.done,
        cast(Dataset[Clip], shown),
        batch_sampler=order,
        collate_fn=coarse,
        num_workers=corpus.num_workers,
        persistent_workers=corpus.num_workers > 0,
    )
    mine = shares(len(parts.val), corpus.batch_size, world_size)[rank::world_size]
    return train, DataLoader(held, batch_sampler=mine, collate_fn=stack)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which samples one rank draws: those of a run of ``num_draws`` from ``consumed`` on."""

    seed: int
    batch_size: int
    consumed: int
    num_draws: int
    rank: int
    world_size: int

    @property
    def done(self) -> int:
        """Batches of each rank before."""
        return self.consumed // (self.batch_size * self.world_size)

    def batches(self, num_clips: int) -> Batches:
        sampler = StatelessSampler(
            num_clips,
            self.seed,
            consumed=self.consumed,
            rank=self.rank,
            world_size=self.world_size,
            num_draws=self.num_draws - self.consumed,
        )
        return Batches(sampler, self.batch_size)

    def among(self, sizes: tuple[int, int], share: float) -> ClipAndStillBatches:
        return ClipAndStillBatches(
            sizes,
            share,
            self.batch_size,
            self.seed,
            first=self.done,
            num_batches=self.num_draws // (self.batch_size * self.world_size),
            rank=self.rank,
            world_size=self.world_size,
        )


def mixed(
    parts: Split, corpus: Corpus, ranks: Ranks
) -> tuple[Clips | LatentCache | Mixture | ClipsAndStills, Batches | MixedBatches | ClipAndStillBatches]:
    """The training clips and their order, with those of the prior or stills where there are any."""
    if parts.stills is not None:
        sizes = (len(parts.train), len(parts.stills))
        return ClipsAndStills(parts.train, parts.stills), ranks.among(sizes, corpus.stills_share)
    own = ranks.batches(len(parts.train))
    if parts.prior is None:
        return parts.train, own
    both = Mixture(parts.train, parts.prior)
    return both, MixedBatches(own, ranks.batches(len(parts.prior)), len(parts.train))


class Continued(DataLoader):
    """A loader that counts ``num_before`` batches which an earlier part of the run has read: Lightning's
    count of batches goes on, too.

    What Lightning takes for a loader that can resume has the two methods of state; this one's place follows
    from the steps done.
    """

    def __init__(self, num_before: int, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.num_before = num_before

    def __len__(self) -> int:
        return self.num_before + super().__len__()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def shares(num_clips: int, batch_size: int, world_size: int) -> list[list[tuple[int, int]]]:
    """Held-out clips, each once, in near-equal batches whose number is a multiple of ``world_size``.

    A rank with one batch more than another would wait for it for ever in the next collective. Batches may
    exceed ``batch_size`` (by less than twice) where clips are few.
    """
    if num_clips < world_size:
        raise ValueError(
            f"{num_clips} held-out clips cannot be shared by {world_size} processes; set data.val_clips to "
            f"at least {world_size}"
        )
    rounds = min(math.ceil(num_clips / (batch_size * world_size)), num_clips // world_size)
    edges = [num_clips * i // (rounds * world_size) for i in range(rounds * world_size + 1)]
    return [[(0, i) for i in range(start, end)] for start, end in pairwise(edges)]
