"""One verb of the command line, and its help page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb: a line of summary, its usage, its most used keys (key, meaning) and examples; whether Hydra
    reads its arguments."""

    summary: str
    usage: str
    keys: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    hydra: bool = False

    def page(self, name: str) -> str:
        """The text of `vgen NAME --help`."""
        width = max((len(key) for key, _ in self.keys), default=0)
        lines = [f"vgen {name}: {self.summary}", "", f"usage: {self.usage}"]
        if self.keys:
            lines += ["", "most used keys:", *(f"  {key:<{width}}  {meaning}" for key, meaning in self.keys)]
        lines += ["", "examples:", *(f"  {example}" for example in self.examples)]
        if self.hydra:
            lines += ["", f"All keys and their values, nothing run: vgen {name} --cfg job"]
        return "\n".join(lines)
