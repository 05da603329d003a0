"""Identity: a few stills of a subject, and captions that put it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vgen.metrics import identity as _identity
from vgen.metrics.identity import bits_of, gated, identity, impostors, leak, prompt_fidelity
from vgen.metrics.kinds.asked import Asked, refuse_buckets, refuse_none
from vgen.metrics.kinds.scenes import Stream, timed
from vgen.metrics.metric import Numbers
from vgen.metrics.task import Inputs, Task, TaskKind
from vgen.spec import spec
from vgen.toybox.captions import caption
from vgen.toybox.oracle import Facts
from vgen.toybox.oracle.identicon import read_identicon
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Beyond, Family, Mix, rng_of, sample
from vgen.toybox.scenes import Scene
from vgen.toybox.splits import Bucket

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite


@dataclass(frozen=True, slots=True)
class Subject:
    """``shown``: the scenes of one frame that the method learns from; the first says what may leak."""

    name: str
    shown: tuple[Scene, ...]


def score_identity(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    thing = task.scene.things[0]
    sprite = read_identicon(video, (thing.colour, thing.second), task.scene.stride_ticks)
    known, obeyed = identity(sprite, thing.code), prompt_fidelity(sprite, task.scene)
    return {
        **known,
        "prompt": obeyed,
        "leak": leak(sprite, task.scene, task.about.shown[0]),
        **gated(known, obeyed),
    }


def inputs(task: Task, size_px: int = 64) -> Inputs:
    subject: Subject = task.about
    stills = np.concatenate([render(s, size_px).video for s in subject.shown])
    words = tuple(caption(s, rng_of(s.seed, 1)).text for s in subject.shown)
    return Inputs(references=stills, reference_captions=words, subject=subject.name)


def impostor_clip(task: Task, size_px: int) -> np.ndarray:
    """A trick that must not pay: somebody else with the same colours."""
    thing = task.scene.things[0]
    other = next(bits for bits in impostors(thing.code) if (bits != bits_of(thing.code)).sum() >= 8)
    fake = replace(thing, code=int(sum(1 << int(i) for i in np.flatnonzero(other))))
    return render(replace(task.scene, things=(fake,)), size_px).video


KIND = TaskKind(
    name="identity",
    metrics=(_identity.METRIC,),
    headlines=("subject", "likeness"),
    score=score_identity,
    inputs=inputs,
    tricks={"impostor": impostor_clip},
)


_LACKS = (Bucket.PAIR, Bucket.TRIPLE, Bucket.EXTRAPOLATION)


@spec
class AskedIdentity(Asked):
    """Subjects by their prompts and their stills."""

    prompts_per_subject: int = 4
    num_references: int = 5

    def __post_init__(self) -> None:
        refuse_none("suite.identity.prompts_per_subject", self.prompts_per_subject)
        refuse_none("suite.identity.num_references", self.num_references)

    def check(self, suite: Suite) -> None:
        refuse_buckets(suite, "kind=identity", _LACKS)

    def rule(self) -> dict[str, Any]:
        return {"prompts_per_subject": self.prompts_per_subject, "num_references": self.num_references}

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        """Subject ``i // prompts_per_subject``. Every caption asks for another ground or motion than the
        first still shows."""
        number = i // self.prompts_per_subject
        name = f"subject-{number:03d}"
        subject = _subject(name, self.num_references, number, stream(number, 1))
        known, rng = subject.shown[0].things[0], stream(i)
        while True:
            drawn = sample(rng, Family.IDENTICON, Mix(), beyond=Beyond(ticks=suite.ticks))
            thing = replace(drawn.things[0], code=known.code, colour=known.colour, second=known.second)
            scene = timed(replace(drawn, things=(thing,)), suite, i)
            if scene.ground is not subject.shown[0].ground or thing.motion is not known.motion:
                break
        words = caption(scene, rng, paraphrase=bucket is Bucket.PARAPHRASE).text
        id = f"{bucket.value}-{i:04d}-{name}"
        seed = int(rng.integers(2**31))
        return [
            Task(
                id=id,
                caption=words,
                unspecified=(),
                scene=scene,
                seed=seed,
                bucket=bucket,
                kind=KIND,
                group=name,
                about=subject,
            )
        ]


def _subject(name: str, num_references: int, number: int, rng: np.random.Generator) -> Subject:
    first = sample(rng, Family.IDENTICON, Mix())
    known = first.things[0]
    shown = []
    for i in range(num_references):
        scene = first if i == 0 else sample(rng, Family.IDENTICON, Mix())
        thing = replace(scene.things[0], code=known.code, colour=known.colour, second=known.second)
        shown.append(replace(scene, things=(thing,), num_frames=1, seed=number * 100 + i))
    return Subject(name, tuple(shown))
