"""What a person wants changed, and what becomes of each of its words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgen.attention.edits import Amplify
from vgen.attention.words import Alignment, Tokenizer, Words, align
from vgen.diffusion.step_window import StepWindow
from vgen.spec import Choice, spec
from vgen.spec import field as spec_field


class Matching(Choice):
    """How words of source and target belong together: ``replace`` one by one, ``refine`` where some are new,
    ``auto`` by their number."""

    AUTO = "auto"
    REPLACE = "replace"
    REFINE = "refine"


@spec
class Wish:
    """What a person asks for: ``source`` and ``target`` in words, or an ``instruction`` that says what to do
    (for methods that were trained to follow one); ``amplify`` multiplies the attention that a target word
    receives, ``blend`` names words (of either prompt) whose place alone may change, ``cross_replace_steps``
    gives target words another window in which they have the source's attention."""

    source: str = ""
    target: str = ""
    instruction: str = ""
    amplify: dict[str, float] = spec_field(default_factory=dict)
    blend: list[str] = spec_field(default_factory=list)
    cross_replace_steps: dict[str, StepWindow] = spec_field(default_factory=dict)
    matching: Matching = Matching.AUTO

    def __post_init__(self) -> None:
        bad = {
            word: factor for word, factor in self.amplify.items() if factor < 0 or not math.isfinite(factor)
        }
        if bad:
            raise ValueError(
                f"amplify needs factors of 0 or more, got {bad}; 1 changes nothing, 2 doubles the word's "
                "attention"
            )


@dataclass(frozen=True, slots=True)
class WishedWords:
    """The words of a wish as ``tokenizer`` parts them, in an edit of ``num_steps`` steps."""

    wish: Wish
    tokenizer: Tokenizer
    num_steps: int

    @property
    def replaces(self) -> bool:
        """Whether words of source and target belong together one by one."""
        if self.wish.matching is Matching.AUTO:
            return len(self.wish.source.split()) == len(self.wish.target.split())
        return self.wish.matching is Matching.REPLACE

    def alignment(self) -> Alignment:
        return align(self.wish.source, self.wish.target, self.tokenizer, self.replaces)

    def amplified(self, window: StepWindow, words_own: dict[int, StepWindow] | None = None) -> list[Amplify]:
        """Edits for the words to amplify, inside ``window`` or the word's own; none where there are none."""
        words = Words.of(self.wish.target, self.tokenizer)
        factors = {
            p: factor
            for word, factor in self.wish.amplify.items()
            for p in words.positions(word, "target prompt")
        }
        return [Amplify(factors=factors, window=window, words=words_own or {})] if factors else []

    def cross_by_word(self, alignment: Alignment) -> dict[int, StepWindow]:
        """Token positions with a window of their own (Hertz et al. 2022, section 3.2: a schedule per word).
        Raises ValueError for a word of the target that has no counterpart in the source: it keeps its own
        attention always."""
        out: dict[int, StepWindow] = {}
        for word, window in self.wish.cross_replace_steps.items():
            positions = alignment.target.positions(word, "target prompt")
            if not alignment.kept[positions].any():
                raise ValueError(
                    f"cross_replace_steps gives {word!r} the source's attention, but the source "
                    f"{self.wish.source!r} has no such word; "
                    "a new word keeps its own in every step, leave it out"
                )
            out |= dict.fromkeys(positions, window.of_rows(self.num_steps))
        return out

    def previews(
        self, cross: StepWindow | None, amplifies_in: StepWindow | None, blends: bool = True
    ) -> list[str]:
        """What will happen to which word, to be read before minutes are spent; ``cross`` is the window of
        words that have none of their own, None where the method leaves cross-attention alone; words are
        amplified in all steps or in their window. Raises
        ValueError for words that are nowhere or heeded by nobody."""
        alignment, wish = self.alignment(), self.wish
        heeded = {"blend": blends, "cross_replace_steps": cross is not None}
        ignored = [key for key, heeds in heeded.items() if getattr(wish, key) and not heeds]
        if ignored:
            alone = "leaves the source's attention maps alone and " if cross is None else ""
            raise ValueError(
                f"this method {alone}can't heed {' and '.join(ignored)}; "
                "leave it out, or edit with a method that heeds them on the same adapter"
            )
        self.blend_tokens(), self.amplified(StepWindow()), self.cross_by_word(alignment)
        lines = [alignment.preview()] if wish.source else []
        if cross is not None:
            by_word = [
                f"{word} {_said(window.of_rows(self.num_steps), self.num_steps)}"
                for word, window in wish.cross_replace_steps.items()
            ]
            said = _said(cross.of_rows(self.num_steps), self.num_steps)
            lines.append(", ".join(["cross-attention of the source in steps " + said, *by_word]))
        lines += self._amplify_preview(amplifies_in)
        place = f"changes only where {', '.join(wish.blend)} is"
        if cross is None:  # nothing is blended: its words part what is read
            place = f"foreground, which reads foreground alone, is where {', '.join(wish.blend)} is"
        lines += [place] if wish.blend else []
        return lines

    def _amplify_preview(self, window: StepWindow | None) -> list[str]:
        """``window`` None: in all steps. Raises ValueError for words amplified in no step."""
        said = []
        for word, factor in self.wish.amplify.items():
            acts = None if window is None else self.wish.cross_replace_steps.get(word, window)
            if acts is not None and not acts.of_rows(self.num_steps).steps(self.num_steps):
                raise ValueError(
                    f"amplify acts in the steps of cross-attention, of which {word!r} has none; raise "
                    "method.cross.end or give method.amplify_in_all_steps=true"
                )
            when = "" if acts is None else f" in steps {_said(acts.of_rows(self.num_steps), self.num_steps)}"
            said.append(f"{word} x{factor:g}{when}")
        return [f"amplifies {', '.join(said)}"] if said else []

    def blend_tokens(self) -> dict[str, list[int]]:
        """Token positions of the blend words in either prompt. Raises ValueError for a word that is in
        neither."""
        prompts = {
            "source": Words.of(self.wish.source, self.tokenizer),
            "target": Words.of(self.wish.target, self.tokenizer),
        }
        for word in self.wish.blend:
            if not any(words.find(word) for words in prompts.values()):
                raise ValueError(
                    f"blend word {word!r} is neither in the source {self.wish.source!r} nor in the target "
                    f"{self.wish.target!r}; "
                    "name a word of one of them"
                )
        out = {
            branch: [p for word in self.wish.blend for p in words.find(word)]
            for branch, words in prompts.items()
        }
        return {branch: tokens for branch, tokens in out.items() if tokens}


def _said(window: StepWindow, num_steps: int) -> str:
    steps = window.steps(num_steps)
    if not steps:
        return "none"
    return (f"{steps[0] + 1}-{steps[-1] + 1}" if len(steps) > 1 else f"{steps[0] + 1}") + f" of {num_steps}"
