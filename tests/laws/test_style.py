"""Law: the code stays as easy to read as what it was measured against (k-diffusion, refiners, equinox).

``python tests/laws/test_style.py`` prints the figures and the worst places.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMITS = {"file lines": 350, "body lines": 25, "branches": 8, "tokens a line": 30}
"""The most that 95 of 100 may have. Tokens a line are to come down to 27 (k-diffusion's): lower the number
with every step that is reached."""
WORST = 15
_BRANCHES = (
    ast.If,
    ast.For,
    ast.While,
    ast.ExceptHandler,
    ast.With,
    ast.BoolOp,
    ast.comprehension,
    ast.IfExp,
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


@dataclass(frozen=True)
class Figure:
    """One number and where it is."""

    value: int
    place: str


@dataclass(frozen=True)
class Source:
    """One file. ``code`` are its lines of code by number, without comments and docstrings."""

    path: Path
    text: str
    tree: ast.Module
    code: dict[int, str]

    @classmethod
    def read(cls, path: Path) -> Source:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        return cls(path, text, tree, _code(text, tree))

    def place(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


@functools.cache
def sources() -> list[Source]:
    return [Source.read(path) for path in sorted((ROOT / "vgen").rglob("*.py"))]


def _code(text: str, tree: ast.Module) -> dict[int, str]:
    lines = text.splitlines()
    told = _docstring_lines(tree)
    found: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
        if token.type not in _NO_CODE:
            found |= dict.fromkeys(range(token.start[0], token.end[0] + 1), "")
    return {row: lines[row - 1] for row in found if row not in told and lines[row - 1].strip()}


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of strings that stand alone: docstrings, and those below a value."""
    alone = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return {row for node in alone for row in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def _functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(source.tree) if isinstance(node, _FUNCTIONS))


def _body_lines(source: Source, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first, last = node.body[0].lineno, node.end_lineno or node.lineno
    return sum(row in source.code for row in range(first, last + 1))


def _branches(node: ast.AST) -> int:
    """Every ``and`` and ``or`` counts, and every ``if`` of a comprehension. Inner functions count for
    themselves alone."""
    total = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            continue
        if isinstance(child, ast.BoolOp):
            total += len(child.values) - 1
        elif isinstance(child, ast.comprehension):
            total += 1 + len(child.ifs)
        elif isinstance(child, _BRANCHES):
            total += 1
        total += _branches(child)
    return total


def _lacking(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Arguments without annotation, and ``return``."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    given += [a for a in (node.args.vararg, node.args.kwarg) if a is not None]
    names = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
    return names + ["return"] * (node.returns is None)


def measure(files: list[Source]) -> dict[str, list[Figure]]:
    """Every figure of every kind, the largest first."""
    found: dict[str, list[Figure]] = {name: [] for name in LIMITS}
    for source in files:
        found["file lines"].append(Figure(len(source.text.splitlines()), source.place(1)))
        for node in _functions(source):
            place = f"{source.place(node.lineno)} {node.name}"
            found["body lines"].append(Figure(_body_lines(source, node), place))
            found["branches"].append(Figure(_branches(node), place))
        for row, line in source.code.items():
            found["tokens a line"].append(Figure(len(re.findall(r"\w+|[^\w\s]", line)), source.place(row)))
    return {name: sorted(figures, key=lambda f: -f.value) for name, figures in found.items()}


def p95(figures: list[Figure]) -> int:
    """The smallest value that 95 of 100 do not exceed."""
    values = sorted(figure.value for figure in figures)
    return values[-(-95 * len(values) // 100) - 1]


def table(found: dict[str, list[Figure]]) -> str:
    """Today's figures beside the limits."""
    rows = [f"{'':<16}{'median':>8}{'p95':>6}{'limit':>7}{'max':>6}"]
    for name, figures in found.items():
        median = statistics.median(figure.value for figure in figures)
        rows.append(f"{name:<16}{median:>8g}{p95(figures):>6}{LIMITS[name]:>7}{figures[0].value:>6}")
    return "\n".join(rows)


def worst(found: dict[str, list[Figure]]) -> str:
    parts = []
    for name, figures in found.items():
        parts += [f"\n{name}:", *(f"  {figure.value:>5}  {figure.place}" for figure in figures[:WORST])]
    return "\n".join(parts)


def test_the_code_keeps_to_its_budgets() -> None:
    found = measure(sources())
    beyond = [name for name in LIMITS if p95(found[name]) > LIMITS[name]]
    assert not beyond, f"{', '.join(beyond)} beyond the limit\n{table(found)}\n{worst(found)}"


def test_every_argument_and_return_is_annotated() -> None:
    lacking = [
        f"{source.place(node.lineno)} {node.name}: {', '.join(names)}"
        for source in sources()
        for node in _functions(source)
        if (names := _lacking(node))
    ]
    assert not lacking, "\n".join(lacking)


if __name__ == "__main__":
    print(table(measure(sources())))
    print(worst(measure(sources())))
