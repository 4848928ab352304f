"""The words of the code: docstrings that teach, and errors that name a remedy. CONTRIBUTING.md has the rules.

ruff checks the form of docstrings; these tests check what it has no rule for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "glow").rglob("*.py"))
SOURCES = [*LIBRARY, *sorted((ROOT / "jobs").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FRAGMENTS = {"Of", "That", "Whose", "Those", "Beside", "Beneath", "So", "Meanwhile", "Likewise"}
"""A docstring that starts with one of these continues the name that it documents."""

RIDDLES = re.compile(r"\b(beneath|for ever|whoever|somebody|came to|comes to|meanwhile)\b", re.IGNORECASE)
"""Words for which plain technical English has a plainer one."""

USER_ERRORS = {
    "UserError",
    "JobError",
    "SpecError",
    "TrackingError",
    "NoSuchRun",
    "DatasetNotFound",
    "DatasetCorrupt",
    "CheckpointError",
    "EncoderError",
    "TrainingDiverged",
}
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def where(path: Path, line: int, what: object) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every docstring, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def strings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def public_names(path: Path) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Yield the classes and functions of a module of the library whose names have no underscore before them."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def test_no_docstring_opens_as_a_fragment():
    assert not [
        where(path, line, text.split()[0])
        for path in SOURCES
        for line, text in docstrings(path)
        if text.split() and text.split()[0].rstrip(",:;.") in FRAGMENTS
    ]


def test_docstrings_and_messages_hold_no_riddles():
    assert not [
        where(path, line, found[0])
        for path in SOURCES
        for line, text in strings(path)
        if " " in text and (found := RIDDLES.search(text))  # one word alone is a key or a name
    ]


def test_documents_hold_no_riddles():
    assert not [
        where(path, line, found[0])
        for path in DOCUMENTS
        for line, text in enumerate(path.read_text().splitlines(), start=1)
        if (found := RIDDLES.search(text)) and f'"{found[0]}' not in text  # CONTRIBUTING.md quotes what not to write
    ]


def test_every_public_name_of_the_library_has_an_example_that_runs():
    assert not [
        where(path, node.lineno, node.name)
        for path in LIBRARY
        for node in public_names(path)
        if ">>>" not in (ast.get_docstring(node) or "")
    ]


def test_docstrings_of_the_library_say_what_one_needs():
    lengths = [len((ast.get_docstring(node) or "").splitlines()) for path in LIBRARY for node in public_names(path)]
    assert sum(lengths) / len(lengths) >= 6


def user_errors() -> Iterator[tuple[str, ast.Call, dict[str | None, ast.expr]]]:
    """Yield every place that makes an error for a user, and what it gives it by keyword."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in USER_ERRORS:
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                yield where(path, node.lineno, ast.unparse(node)[:80]), node, given


def test_every_error_that_a_user_can_meet_has_a_code():
    found = list(user_errors())
    assert len(found) > 100
    assert not [place for place, _, given in found if "code" not in given]
    codes = [code.value for _, _, given in found if isinstance(code := given.get("code"), ast.Constant)]
    assert not [code for code in codes if not CODE.fullmatch(str(code))]


def test_every_error_that_a_user_can_meet_has_a_remedy():
    """What wraps the whole sentence of another error has its remedy in that sentence."""
    assert not [
        place
        for place, node, given in user_errors()
        if "remedy" not in given and not isinstance(node.args[0], ast.Call | ast.Name | ast.Attribute)
    ]
