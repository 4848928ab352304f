"""An upgrade of Ray, MLflow or torch that takes away what this project relies on fails here in a second, and in a
sentence. `tests.upstream_names` lists it, and nothing that is private elsewhere is used without being listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.upstream_checks import Name, has, says, shows, takes
from tests.upstream_names import NAMES

pytestmark = pytest.mark.upstream

ROOT = Path(__file__).parents[1]
LISTS = {"test_upstream.py", "upstream_names.py", "upstream_checks.py"}
OURS = {"glow", "glowctl", "tests", "benchmarks"}
FOLDERS = {"glow", "jobs", "tests", "benchmarks"}

INTERNAL = re.compile(
    r"(^|\.)_|^mlflow\.(protos|store|system_metrics|utils)\b|^ray\.(dashboard|scripts)\b|^torch\.(_|ops\b)"
)
"""Modules of others that are not for users."""

VARIABLE = re.compile(r"\b(?:RAY|TUNE|MLFLOW|AUTOSCALER)_\w+")
ALLOWED = {"_fields", "_replace", "_exit", "RAY_VERSION"}
"""Names with an underscore that Python's own documentation has, and a variable of our own."""


@cache
def sources(*folders: str, suffixes: str = "py") -> dict[Path, str]:
    paths = (path for folder in folders for path in ([ROOT / folder] if "." in folder else (ROOT / folder).rglob("*")))
    return {
        path: path.read_text()
        for path in sorted(paths)
        if path.suffix.lstrip(".") in suffixes.split() and path.name not in LISTS
    }


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.name)
def test_another_package_still_has(name: Name):
    users = [
        str(path.relative_to(ROOT))
        for path, text in (sources(*FOLDERS) | sources("deploy", "cluster.yaml", suffixes="sh yaml")).items()
        if name.ours in text
    ]
    assert users, f"nothing here uses {name.name} any more: remove its line"
    try:
        holds, why = name.holds(), ""
    except Exception as error:
        holds, why = False, f" ({type(error).__name__}: {error})"
    assert holds, f"{name.name} is no longer what {', '.join(users)} takes it for{why}: {name.breaks}"


@pytest.mark.parametrize(
    "name",
    [
        has("inspect:no_such_name", ""),
        takes("inspect:signature", "callable no_such_parameter", ""),
        says("no such text", "mlflow/environment_variables.py", ""),
        shows("no such text", ""),
    ],
    ids=lambda name: name.name,
)
def test_what_another_package_lacks_is_missed(name: Name):
    with pytest.raises((AttributeError, AssertionError)):
        assert name.holds()


def own_names(trees: list[ast.Module]) -> set[str]:
    """What our own code calls something, of the names that begin with an underscore."""
    names: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if name.startswith("_")}


def foreign_names(tree: ast.Module) -> Iterator[str]:
    """What a file takes from other packages that is not for users: imports from internal modules, attributes and
    keywords that begin with an underscore, operators of torch, environment variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in OURS:
            internal = INTERNAL.search(node.module) and not node.module.startswith("__")
            yield from (alias.name for alias in node.names if internal or alias.name.startswith("_"))
        elif isinstance(node, ast.Import):
            yield from (alias.name.rpartition(".")[2] for alias in node.names if INTERNAL.search(alias.name))
        elif isinstance(node, ast.Attribute):
            operator = ast.unparse(node)
            if re.fullmatch(r"torch\.ops\.\w+\.\w+", operator) or _is_private(node.attr):
                yield operator.rpartition(".")[2]
        elif isinstance(node, ast.keyword) and node.arg and _is_private(node.arg):
            yield node.arg
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and _is_private(str(name.value)):
                yield str(name.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from VARIABLE.findall(node.value)
            yield from re.findall(r"\b_(?:private|internal)\.[\w.]+", node.value)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def test_nothing_private_is_used_that_is_not_listed():
    trees = {path: ast.parse(text) for path, text in sources(*FOLDERS).items()}
    own = own_names(list(trees.values())) | ALLOWED
    listed = " ".join(f"{name.name} {name.ours}" for name in NAMES)
    used = {
        (name, path)
        for path, tree in trees.items()
        for name in foreign_names(tree)
        if name not in own or f"super().{name}(" in sources(*FOLDERS)[path]  # an override of another package's method
    }
    for path, text in sources("deploy", "cluster.yaml", suffixes="sh yaml").items():
        used |= {(name, path) for name in VARIABLE.findall(text)}
    missing = sorted(f"{name} in {path.relative_to(ROOT)}" for name, path in used if name not in listed)
    assert not missing, "without a line in tests/upstream_names.py: " + "; ".join(missing)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ray._private.state import actors", ["actors"]),
        ("from mlflow.utils.mlflow_tags import MLFLOW_USER", ["MLFLOW_USER"]),
        ("import mlflow.store.tracking", ["tracking"]),
        ("from ray.train import _checkpoint", ["_checkpoint"]),
        ("torch.cpu._is_amx_tile_supported()", ["_is_amx_tile_supported"]),
        ('getattr(torch.cpu, "_init_amx", None)', ["_init_amx"]),
        ("torch.ops.aten.relu(x)", ["relu"]),
        ("ray.init(_memory=1)", ["_memory"]),
        ('os.environ["RAY_TRAIN_V2_ENABLED"]', ["RAY_TRAIN_V2_ENABLED"]),
        ("from ray.train import Checkpoint\nfrom glow.model import _x\nray.init(address=1)", []),
        ('logging.getLogger("ray._private.worker")', ["_private.worker"]),
        ('getattr(x, name); type(x).__name__ == "_low"', []),
    ],
)
def test_a_private_name_is_found(source: str, found: list[str]):
    assert list(foreign_names(ast.parse(source))) == found
