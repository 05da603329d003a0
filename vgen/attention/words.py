"""Which tokens of a target prompt stand for which tokens of its source: aligned by words, counted by the
tokenizer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Tokenizer(Protocol):
    """What is needed of transformers' CLIPTokenizer; it returns an encoding with ``input_ids``."""

    model_max_length: int

    def __call__(self, text: str, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Words:
    """A prompt's words and, for each, its token positions (position 0 is the start token)."""

    words: tuple[str, ...]
    spans: tuple[range, ...]
    num_tokens: int

    @staticmethod
    def of(prompt: str, tokenizer: Tokenizer) -> Words:
        """Raises ValueError where a prompt is longer than the text encoder reads: its last words would steer
        nothing."""
        words, spans, at = prompt.split(), [], 1
        for word in words:
            size = len(tokenizer(word, add_special_tokens=False).input_ids)
            spans.append(range(at, at + size))
            at += size
        limit = tokenizer.model_max_length
        if at + 1 > limit:
            raise ValueError(
                f"prompt has {at - 1} tokens but the text encoder reads {limit - 2}; shorten {prompt[:60]!r}"
            )
        whole = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        if whole != at - 1:
            raise ValueError(
                f"the tokenizer joins words of {prompt[:60]!r} ({at - 1} tokens word by word, {whole} as a "
                "sentence), "
                "so they can't be edited one by one; separate them by spaces"
            )
        return Words(tuple(words), tuple(spans), limit)

    def find(self, word: str) -> list[int]:
        """Token positions of every occurrence of ``word`` (or phrase), ignoring case and punctuation; [] if
        there is none."""
        wanted, own = [_bare(w) for w in word.split()], [_bare(w) for w in self.words]
        hits = (
            [i for i in range(len(own) - len(wanted) + 1) if own[i : i + len(wanted)] == wanted]
            if wanted
            else []
        )
        return [p for i in hits for span in self.spans[i : i + len(wanted)] for p in span]

    def positions(self, word: str, prompt_name: str = "prompt") -> list[int]:
        """The same; raises ValueError if there is none."""
        found = self.find(word)
        if not found:
            raise ValueError(
                f"word {word!r} does not occur in the {prompt_name} {' '.join(self.words)!r}; name one of "
                "its words"
            )
        return found


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()").lower()


@dataclass(frozen=True, slots=True)
class Alignment:
    """``mapper`` k_source k_target, how a source token's attention is handed on: under ``replace`` every row
    sums to one, in refinement every kept token has one source. ``kept`` k_target is 0 for new words, whose
    own maps stay (Hertz et al. 2022, section 3.2: word swap, adding a phrase)."""

    source: Words
    target: Words
    mapper: Tensor
    kept: Tensor
    replaced: tuple[tuple[str, str], ...]
    added: tuple[str, ...]

    def preview(self) -> str:
        """One line a person can check before minutes are spent."""
        swaps = [f"{a} -> {b}" for a, b in self.replaced]
        parts = ([f"replaces {', '.join(swaps)}"] if swaps else []) + (
            [f"adds {', '.join(self.added)}"] if self.added else []
        )
        return "; ".join(parts) or "changes no word"


def align(source: str, target: str, tokenizer: Tokenizer, replace: bool) -> Alignment:
    """``replace`` (word swap) asks for equal word counts and gives a swapped word the map of the word it
    stands for; otherwise (refinement) words common to both keep their map, new words have their own, and
    padding has that of its own position, as in the released code (in a shorter target some padding stands
    where the source has a word)."""
    a, b = Words.of(source, tokenizer), Words.of(target, tokenizer)
    if replace and len(a.words) != len(b.words):
        raise ValueError(
            f"replace needs as many words in the target as in the source, got {len(b.words)} and "
            f"{len(a.words)}; "
            "use matching=refine, or word the target alike"
        )
    mapper, kept = torch.zeros(a.num_tokens, b.num_tokens), torch.ones(b.num_tokens)
    mapper[0, 0] = 1
    swaps, added = [], []
    for tag, i0, i1, j0, j1 in _operations(a, b, replace):
        if tag in ("equal", "swap"):
            for i, j in zip(range(i0, i1), range(j0, j1), strict=True):
                same = tag == "equal"
                both = (
                    min(len(a.spans[i]), len(b.spans[j])) if same else None
                )  # "dog" and "dog,": the comma alone is new
                _share(mapper, a.spans[i][:both], b.spans[j][:both])
                kept[list(b.spans[j][both:] if same else ())] = 0
                if _bare(a.words[i]) != _bare(b.words[j]):
                    swaps.append((a.words[i], b.words[j]))
        else:  # words of the target alone; for "delete" there are none
            for j in range(j0, j1):
                kept[list(b.spans[j])] = 0
                added.append(b.words[j])
    if replace:
        _pad(mapper, a, b)
    else:
        mapper[_end(a), _end(b)] = 1
        padding = range(_end(b) + 1, b.num_tokens)
        mapper[list(padding), list(padding)] = 1
    return Alignment(a, b, mapper, kept, tuple(swaps), tuple(added))


def _operations(a: Words, b: Words, replace: bool) -> Sequence[tuple[str, int, int, int, int]]:
    if replace:
        return [("swap", 0, len(a.words), 0, len(b.words))]
    return difflib.SequenceMatcher(
        None, [_bare(w) for w in a.words], [_bare(w) for w in b.words], autojunk=False
    ).get_opcodes()


def _share(mapper: Tensor, source: range, target: range) -> None:
    """Tokens of one word to tokens of another: one to one where there are as many, else attention is shared
    equally among the target's."""
    if len(source) == len(target):
        mapper[list(source), list(target)] = 1
    else:
        mapper[source.start : source.stop, target.start : target.stop] = 1 / len(target)


def _end(words: Words) -> int:
    """Position of the end token."""
    return words.spans[-1].stop if words.spans else 1


def _pad(mapper: Tensor, a: Words, b: Words) -> None:
    """End and padding tokens follow those of the source in order; what is left over on either side meets in
    the last one, so that no attention is lost."""
    end_a, end_b = _end(a), _end(b)
    last_a, last_b = a.num_tokens - 1, b.num_tokens - 1
    for i in range(end_a, last_a + 1):
        mapper[i, min(end_b + i - end_a, last_b)] = 1
    orphans = [j for j in range(end_b, last_b + 1) if not mapper[:, j].any()]
    if orphans:  # the target is shorter: its last tokens share the source's last
        at = [*orphans, int(mapper[last_a].argmax())]
        mapper[last_a] = 0
        mapper[last_a, at] = 1 / len(at)
