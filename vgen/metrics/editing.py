"""O4: is the edit there, and everything else as it was? (reference: oracle evaluation, 4.4)

EDIT, the headline, is the harmonic mean of four parts in 0..1, so that neither a copy of the source nor a
fresh clip earns anything. Every frame is judged on its own: a clip that is edited half of the time has half
of EDIT_ACC, and none of EDIT_STRICT, which asks for all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from vgen.metrics.metric import Metric, Numbers
from vgen.metrics.psnr import psnr
from vgen.toybox.edits import Edit, EditPair
from vgen.toybox.motion import paths
from vgen.toybox.oracle import Facts, read, read_image
from vgen.toybox.oracle.facts import size_of
from vgen.toybox.oracle.grounds import read_backdrop
from vgen.toybox.oracle.parse import Blob
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Camera, Ground, Scene, Thing

METRIC = Metric(
    "toybox/editing",
    3,
    "EDIT: harmonic mean of EDIT_ACC, KEEP_ACC, TRAJ and BG; ORACLE-PSNR to the exact target",
)
REACH = 0.12  # canvas widths: what is farther from where a thing has to be is another thing
ASTRAY, LOST = (
    0.05,
    0.5,
)  # widths: the scale of TRAJ, and the distance at which a thing that is not there counts
WORST_DB, NOMINAL_DB = 15.0, 35.0  # where BG is 0, and where it is 1 if no codec is known
_DISC = np.ones((5, 5), bool)
_DISC[[0, 0, -1, -1], [0, -1, 0, -1]] = False  # a square without its corners


def score_edit(
    source_video: np.ndarray,
    edited_video: np.ndarray,
    pair: EditPair,
    vae_reconstruction: np.ndarray | None = None,
    facts: Facts | None = None,
) -> Numbers:
    """Videos are uint8 f h w 3 of the scene's own frames; ``vae_reconstruction`` is the source through
    encoder and decoder: what of the ground the codec itself loses is forgiven (without it, what lies above 35
    dB). ``facts`` are what the oracle read in the edited clip, if it did already.

    ``edit_acc``: share of frames that show the edit, ``edit_acc_all``: 1 if all do; ``keep_acc``: share of
    frames in which every thing is there, nothing was added and no other attribute changed; ``traj``:
    exp(-distance from the source's path / .05); ``bg``: PSNR of the ground, 0 at 15 dB and 1 at the codec's
    (``psnr_codec``, None if it was not told); ``edit``, ``edit_strict``: harmonic means with the first and
    the second; ``oracle_psnr``."""
    _check(source_video, edited_video, vae_reconstruction, pair.scene)
    target = drawn(pair.edited, edited_video.shape[1])
    out: Numbers = {}
    read_frames = _by_frame(edited_video, facts or read(edited_video, pair.scene.stride_ticks))
    frames = [
        _judged(frame, pair, place) for frame, place in zip(read_frames, _places(pair.scene), strict=True)
    ]
    shown, kept, astray = (np.array(x) for x in zip(*frames, strict=True))
    out["edit_acc"], out["edit_acc_all"] = share, every = float(shown.mean()), float(shown.min() == 1)
    out["keep_acc"] = keep = float(kept.mean())
    out["traj"] = traj = float(np.exp(-astray.mean() / ASTRAY))
    ground = ~_touched(pair, edited_video.shape[1])
    out["psnr_bg"] = seen_db = psnr(
        target if pair.edit is Edit.GROUND else source_video, edited_video, ground
    )
    out["psnr_codec"] = codec_db = (
        None if vae_reconstruction is None else _codec_db(psnr(source_video, vae_reconstruction, ground))
    )
    best = NOMINAL_DB if codec_db is None else codec_db
    out["bg"] = bg = float(np.clip((seen_db - WORST_DB) / (best - WORST_DB), 0, 1))
    out["edit"], out["edit_strict"] = harmonic((share, keep, traj, bg)), harmonic((every, keep, traj, bg))
    out["oracle_psnr"] = psnr(target, edited_video)
    return out


@lru_cache(maxsize=8)
def drawn(scene: Scene, size_px: int) -> np.ndarray:
    """The scene's video, which nobody may write into: one edit needs the same few several times."""
    video = render(scene, size_px).video
    video.flags.writeable = False
    return video


def harmonic(parts: Sequence[float]) -> float:
    """0 as soon as one part is 0."""
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / p for p in parts)


@dataclass(frozen=True, slots=True)
class _Frame:
    ground: Ground | None
    bodies: list[Blob]


def _by_frame(video: np.ndarray, facts: Facts) -> list[_Frame]:
    """What each frame shows. The clip was read against one ground; where a frame stands on another, each is
    read against its own."""
    grounds = [read_backdrop(frame[None].astype(np.float32) / 255).ground for frame in video]
    if all(ground is facts.ground for ground in grounds):
        return [_Frame(ground, [b for b in facts.blobs if b.frame == k]) for k, ground in enumerate(grounds)]
    return [_Frame(ground, read_image(frame).blobs) for ground, frame in zip(grounds, video, strict=True)]


def _judged(frame: _Frame, pair: EditPair, places: np.ndarray) -> tuple[float, float, float]:
    """Share of the edits that a frame shows, whether the rest is kept, and how far things are astray.
    ``places`` n 2."""
    seen, astray = _assign(frame.bodies, places)
    marks: list[bool] = [frame.ground is pair.edited.ground] if pair.edit is Edit.GROUND else []
    kept = len(frame.bodies) == len(seen)
    for i, (thing, found) in enumerate(zip(pair.edited.things, seen, strict=True)):
        edited = () if i not in pair.changed else ("shape",) if pair.edit is Edit.RESHAPE else ("colour",)
        marks += [_is(thing, found, a) for a in edited]
        kept &= all(_is(thing, found, a) for a in ("colour", "shape", "size") if a not in edited)
    return float(np.mean(marks)), float(kept), astray


def _assign(bodies: list[Blob], places: np.ndarray) -> tuple[list[Blob | None], float]:
    """What is seen where each thing has to be, and the mean distance."""
    seen: list[Blob | None] = [None] * len(places)
    astray = np.full(len(places), LOST)
    if bodies and len(places):
        at = np.array([(b.x, b.y) for b in bodies])
        distance = np.linalg.norm(places[:, None] - at, axis=-1)
        for i, j in zip(*linear_sum_assignment(distance), strict=True):
            astray[i] = min(distance[i, j], LOST)
            if distance[i, j] <= REACH:
                seen[i] = bodies[j]
    return seen, float(astray.mean()) if len(places) else 0.0


def _is(thing: Thing, seen: Blob | None, attribute: str) -> bool:
    if seen is None:
        return False
    found = size_of(seen.full_radius) if attribute == "size" else getattr(seen, attribute)
    return found is getattr(thing, attribute)


def _places(scene: Scene) -> np.ndarray:
    """``f n 2``: where each thing has to be."""
    return paths(scene)[..., :2].transpose(1, 0, 2)


def _touched(pair: EditPair, size_px: int) -> np.ndarray:
    """bool f h w: bodies and marks before or after the edit, two pixels wider."""
    shown = np.zeros((pair.scene.num_frames, size_px, size_px), bool)
    for scene in (pair.scene, pair.edited):
        empty = replace(scene, things=(), num_frames=scene.num_frames if scene.camera != Camera() else 1)
        shown |= (drawn(scene, size_px) != drawn(empty, size_px)).any(-1)
    return ndimage.binary_dilation(shown, _DISC[None])


def _codec_db(db: float) -> float:
    if db <= WORST_DB + 1:
        raise ValueError(
            f"a reconstruction must keep the ground to more than {WORST_DB + 1:.0f} dB, this one keeps "
            f"{db:.1f} dB; check that it is of "
            "the source and in the same range"
        )
    return db


def _check(source: np.ndarray, edited: np.ndarray, reconstruction: np.ndarray | None, scene: Scene) -> None:
    for name, video in (("source", source), ("edited", edited), ("reconstructed", reconstruction)):
        if video is not None and (
            video.dtype != np.uint8 or video.shape != source.shape or len(video) != scene.num_frames
        ):
            raise ValueError(
                f"the {name} clip must be uint8 of the scene's {scene.num_frames} frames and the source's "
                f"shape {source.shape}, got "
                f"{video.dtype} {video.shape}; trim or resize it first"
            )
