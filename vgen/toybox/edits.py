"""Edit pairs: a scene, the same scene with one fact changed, and the words for both; the exact target video is a rendering away."""
from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from vgen.toybox.captions import caption, ground_words
from vgen.toybox.sampling import rng_of
from vgen.toybox.scenes import SOLIDS, Colour, Kind, Scene, Shape


class Edit(Enum):
    """What changes; everything else, nuisance included, stays."""

    RECOLOUR = "recolour"
    RESHAPE = "reshape"
    GROUND = "ground"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPair:
    """``source`` and ``target`` differ in the edited words alone; ``index`` is the thing that changed, None for the ground."""

    scene: Scene
    edited: Scene
    edit: Edit
    index: int | None
    instruction: str
    source: str
    target: str


def edit_pair(scene: Scene, edit: Edit, seed: int) -> EditPair:
    """Change one fact of ``scene``. Raises ValueError where the scene has nothing of the kind."""
    rng = rng_of(seed, scene.seed)
    index: int | None = None
    if edit is Edit.GROUND:
        ground = _other(SOLIDS, (scene.ground,), rng)
        edited, instruction = replace(scene, ground=ground), f"make the background {ground_words(ground)}"
    else:
        candidates = [i for i, thing in enumerate(scene.things) if thing.kind is Kind.SHAPE]
        if not candidates:
            raise ValueError(f"edit {edit.value} changes a shape, the scene has none; draw scenes of family core")
        index = candidates[rng.integers(len(candidates))]
        thing = scene.things[index]
        name = f"the {thing.colour.value} {thing.shape.value}"
        if edit is Edit.RECOLOUR:
            colour = _other(tuple(Colour), tuple(t.colour for t in scene.things), rng)
            changed, instruction = replace(thing, colour=colour), f"make {name} {colour.value}"
        else:
            shape = _other(tuple(Shape), (thing.shape,), rng)
            changed, instruction = replace(thing, shape=shape), f"turn {name} into a {shape.value}"
        edited = replace(scene, things=(*scene.things[:index], changed, *scene.things[index + 1 :]))
    words = [caption(s, rng_of(seed, scene.seed, 1)).text for s in (scene, edited)]  # one stream: the same sentence twice
    return EditPair(scene=scene, edited=edited, edit=edit, index=index, instruction=instruction, source=words[0], target=words[1])


def _other(options: tuple, taken: tuple, rng: np.random.Generator):  # noqa: ANN202 - an element of options
    free = [o for o in options if o not in taken]
    return free[rng.integers(len(free))]
