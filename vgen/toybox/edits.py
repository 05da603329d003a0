"""Edit pairs: a scene, the same scene with one fact changed, and the words for both; the exact target video
is a rendering away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from vgen.spec import Choice
from vgen.toybox.captions import caption, ground_words
from vgen.toybox.sampling import rng_of
from vgen.toybox.scenes import SOLIDS, Colour, Kind, Scene, Shape, Thing

T = TypeVar("T")


class Edit(Choice):
    """What changes; everything else, nuisance included, stays."""

    RECOLOUR = "recolour"
    RESHAPE = "reshape"
    GROUND = "ground"
    BOTH = "both"  # two things get other colours


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPair:
    """``source`` and ``target`` differ in the edited words alone; ``changed`` are the things that changed,
    empty for the ground."""

    scene: Scene
    edited: Scene
    edit: Edit
    changed: tuple[int, ...]
    instruction: str
    source: str
    target: str

    @property
    def index(self) -> int | None:
        """The first thing that changed, None for the ground."""
        return self.changed[0] if self.changed else None


def edit_pair(
    scene: Scene, edit: Edit, seed: int, *, paraphrase: bool = False, terse: bool = False
) -> EditPair:
    """Change one fact of ``scene`` (two colours for ``BOTH``); ``paraphrase`` says so in sentences that
    training never reads. ``terse`` prompts name what things are and where they go, and leave size, speed and
    a ground that stays to the clip, as people's prompts do. Raises ValueError where the scene has nothing of
    the kind."""
    rng = rng_of(seed, scene.seed)
    changed: tuple[int, ...] = ()
    if edit is Edit.GROUND:
        ground = _other(SOLIDS, (scene.ground,), rng)
        edited, instruction = replace(scene, ground=ground), f"make the background {ground_words(ground)}"
    else:
        changed = _chosen(scene, edit, rng)
        edited, instruction = _change(scene, edit, changed, rng)
    # one stream: the same sentence twice
    unsaid = () if not terse else ("size", "speed") if edit is Edit.GROUND else ("size", "speed", "ground")
    source, target = (
        caption(s, rng_of(seed, scene.seed, 1), paraphrase=paraphrase, unspecified=unsaid).text
        for s in (scene, edited)
    )
    return EditPair(
        scene=scene,
        edited=edited,
        edit=edit,
        changed=changed,
        instruction=instruction,
        source=source,
        target=target,
    )


def _chosen(scene: Scene, edit: Edit, rng: np.random.Generator) -> tuple[int, ...]:
    candidates = [i for i, thing in enumerate(scene.things) if thing.kind is Kind.SHAPE]
    if edit is Edit.BOTH:
        if len(candidates) < 2:
            raise ValueError(
                f"edit both changes two shapes, the scene has {len(candidates)}; draw scenes with two things"
            )
        return tuple(candidates[:2])
    if not candidates:
        raise ValueError(f"edit {edit.value} changes a shape, the scene has none; draw scenes of family core")
    return (candidates[rng.integers(len(candidates))],)


def _change(
    scene: Scene, edit: Edit, changed: tuple[int, ...], rng: np.random.Generator
) -> tuple[Scene, str]:
    things, told = list(scene.things), []
    for i in changed:
        name = f"the {things[i].colour.value} {things[i].shape.value}"
        things[i], said = (
            _reshaped(things[i], name, rng)
            if edit is Edit.RESHAPE
            else _recoloured(scene, things, i, name, rng)
        )
        told.append(said)
    return replace(scene, things=tuple(things)), " and ".join(told)


def _reshaped(thing: Thing, name: str, rng: np.random.Generator) -> tuple[Thing, str]:
    shape = _other(tuple(Shape), (thing.shape,), rng)
    return replace(thing, shape=shape), f"turn {name} into a {shape.value}"


def _recoloured(
    scene: Scene, things: list[Thing], i: int, name: str, rng: np.random.Generator
) -> tuple[Thing, str]:
    """A colour that nothing has before or after."""
    colour = _other(tuple(Colour), [t.colour for t in (*scene.things, *things)], rng)
    return replace(things[i], colour=colour), f"make {name} {colour.value}"


def _other(options: Sequence[T], taken: Sequence[T], rng: np.random.Generator) -> T:
    free = [o for o in options if o not in taken]
    return free[rng.integers(len(free))]
