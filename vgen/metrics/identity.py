"""O5: is it the subject that few-shot tuning was shown? (reference: oracle evaluation, 4.4)

An identicon is known by sixteen bits alone: every other subject has the same two colours in the same amounts,
so that a colour histogram, which calls an impostor the same to three digits, is blind.
"""

from __future__ import annotations

import numpy as np

from vgen.metrics.metric import Metric, Numbers
from vgen.toybox.oracle.identicon import NUM_BITS, Sprite
from vgen.toybox.sampling import rng_of
from vgen.toybox.scenes import Scene

METRIC = Metric(
    "toybox/identity",
    2,
    "BITACC, ID-EXACT (and both gated by PROMPT), verification AUC, ID-CONS, PROMPT, LEAK of identicons",
)
NUM_IMPOSTORS = 64
FEWEST_FRAMES = 0.75  # of the clip: less often seen, the subject is not there


def bits_of(code: int) -> np.ndarray:
    """bool 16."""
    return np.array([(code >> i) & 1 for i in range(NUM_BITS)], bool)


def impostors(code: int) -> np.ndarray:
    """bool n 16: other subjects with as many bits set; always the same ones for one subject."""
    own, rng = bits_of(code), rng_of(code)
    out: list[np.ndarray] = []
    while len(out) < NUM_IMPOSTORS:
        other = rng.permutation(own)
        if not np.array_equal(other, own):
            out.append(other)
    return np.stack(out)


def identity(sprite: Sprite, code: int) -> Numbers:
    """``bitacc``: share of bits that are right over all frames (.5 is chance, a frame without a sprite has
    none); ``id_exact``: all sixteen by the mean over frames; ``verification``: share of impostors less like
    the clip than the subject (area under the ROC curve with matched negatives); ``id_cons``: share of bits
    that are in each frame as they mostly are."""
    own = bits_of(code)
    seen = sprite.levels[sprite.found]
    if not len(seen):
        return {"bitacc": 0.0, "id_exact": 0.0, "verification": 0.0, "id_cons": 0.0}
    there = len(seen) / len(sprite.levels)
    bits = seen > 0.5
    mostly = bits.mean(0) > 0.5
    far, others = np.abs(seen.mean(0) - own).mean(), np.abs(seen.mean(0) - impostors(code)).mean(1)
    return {
        "bitacc": there * float((bits == own).mean()),
        "id_exact": float(there >= FEWEST_FRAMES and np.array_equal(mostly, own)),
        "verification": float((others > far).mean() + (others == far).mean() / 2),
        "id_cons": there * float((bits == mostly).mean()),
    }


def prompt_fidelity(sprite: Sprite, scene: Scene) -> float:
    """PROMPT: 1 if the subject is there, moves as asked and stands on the ground that was asked for."""
    there = sprite.found.mean() >= FEWEST_FRAMES
    return float(there and sprite.motion is scene.things[0].motion and sprite.ground is scene.ground)


def gated(known: Numbers, obeyed: float) -> Numbers:
    """``subject``: all sixteen bits and the prompt; ``likeness``: bits above chance, 0..1, where the prompt
    is obeyed. A still of the subject held for the whole clip has its bits, and an impostor may obey: neither
    has both."""
    return {
        "subject": (known["id_exact"] or 0.0) * obeyed,
        "likeness": max(0.0, 2 * (known["bitacc"] or 0.0) - 1) * obeyed,
    }


def leak(sprite: Sprite, scene: Scene, shown: Scene) -> float | None:
    """LEAK: 1 if the ground or the motion of the clip that the subject was learnt from appears where another
    was asked for; None where the prompt asks for the same ones."""
    pairs = [
        (sprite.ground, scene.ground, shown.ground),
        (sprite.motion, scene.things[0].motion, shown.things[0].motion),
    ]
    asked = [(seen, before) for seen, wanted, before in pairs if wanted is not before]
    return float(any(seen is before for seen, before in asked)) if asked else None
