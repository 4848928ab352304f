"""requirements.lock says which version of each dependency is tested: all of them, on every Python, and nothing of the
machine that wrote it."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
LOCKED = [
    Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
]
NOT_LOCKED = {"torch", "torchvision", PROJECT["name"]}
"""Those whose build depends on the machine, and the project itself."""


def dependencies() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [wanted for wanted in map(Requirement, every) if wanted.name not in NOT_LOCKED]


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_is_locked_at_one_version_that_it_allows(python):
    here = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    locked = [line for line in LOCKED if line.marker is None or line.marker.evaluate(here)]
    for wanted in dependencies():
        [line] = [line for line in locked if canonicalize_name(line.name) == canonicalize_name(wanted.name)]
        [version] = line.specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version), f"{line} is not {wanted}: run make lock"


def test_the_lock_names_no_place_and_no_build_of_torch():
    names = {line.name for line in LOCKED}
    assert not {name for name in names if name.startswith(("torch", "triton", "nvidia-cu", "cuda"))}
    assert not [line for line in LOCKED if line.url]
