"""Whose facts do the words of a caption carry? What a linear reader finds in the text encoder's states, in
captions of two moving things.

    python benchmarks/word_binding.py backbones=toybox,runs/toybox_binding/image_model n=6000

One line a word: the share of held-out captions in which a softmax regression on the state of that word names
a fact of the first or of the second thing. A word should tell the facts of its own thing said so far and of
the other thing no more than chance (colour .12, shape .17, direction .12, speed .33); where it tells both, a
UNet cannot know whose they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.app.loading import load_backbone
from vgen.backbones.image_model import ImageModel
from vgen.toybox.captions import caption
from vgen.toybox.clauses import JOINT, apart
from vgen.toybox.sampling import Mix, rng_of, scene_at
from vgen.toybox.scenes import DIRECTION, Colour, Shape, Speed, Thing

SEED, HELD_OUT, DECAY = 1777, 0.25, 1e-3
FACTS: dict[str, tuple[list[Enum], Callable[[Thing], Enum]]] = {
    "colour": (list(Colour), lambda thing: thing.colour),
    "shape": (list(Shape), lambda thing: thing.shape),
    "direction": (list(DIRECTION), lambda thing: thing.motion),
    "speed": (list(Speed), lambda thing: thing.speed),
}


def read(states: Tensor, classes: Tensor, num_classes: int) -> float:
    """Held-out accuracy of a softmax regression; the last quarter of the rows is held out."""
    states = (states - states.mean(0)) / (states.std(0) + 1e-6)
    num = round(len(states) * (1 - HELD_OUT))
    weight = torch.zeros(states.shape[1], num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=150, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        out = F.cross_entropy(states[:num] @ weight + bias, classes[:num]) + DECAY * weight.square().sum()
        out.backward()
        return out

    optimiser.step(loss)
    return float(((states[num:] @ weight + bias).argmax(1) == classes[num:]).float().mean())


def num_words(model: ImageModel, text: str) -> int:
    """Token ids of ``text``: with the begin token before them, also the place of its last one."""
    return len(model.tokenizer(text, add_special_tokens=False).input_ids)


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    mix = Mix(core=1, many=0, texture=0, motion=0, relation=0, puppet=0, two_things=1)
    scenes = [scene_at(i, SEED, mix) for i in range(int(options.get("n", 6000)))]
    scenes = [scene for scene in scenes if all(thing.motion in DIRECTION for thing in scene.things)]
    texts = [caption(scene, rng_of(SEED, scene.seed)).text for scene in scenes]
    for name in options.get("backbones", "toybox").split(","):
        model = load_backbone(name).freeze()
        with torch.no_grad():
            states = torch.cat(
                [model.encode_text(texts[at : at + 256]).tokens.float() for at in range(0, len(texts), 256)]
            )
        places: dict[str, list[int]] = {}
        for text, scene in zip(texts, scenes, strict=True):
            parts = apart(text)
            for i, (clause, thing) in enumerate(zip(parts.clauses, scene.things, strict=True)):
                until = parts.before + JOINT.join([*parts.clauses[:i], ""])
                noun = clause[: clause.index(thing.shape.value) + len(thing.shape.value)]
                places.setdefault(f"shape word of thing {i + 1}", []).append(num_words(model, until + noun))
                places.setdefault(f"last word of thing {i + 1}", []).append(num_words(model, until + clause))
        for word, at in places.items():
            chosen = states[torch.arange(len(at)), torch.tensor(at)]
            line = [f"{name}  {word}"]
            for fact, (classes, of) in FACTS.items():
                found = [
                    read(chosen, torch.tensor([classes.index(of(s.things[i])) for s in scenes]), len(classes))
                    for i in (0, 1)
                ]
                line.append(f"{fact} {found[0]:.2f} / {found[1]:.2f}")
            print("  ".join(line), flush=True)


if __name__ == "__main__":
    main()
