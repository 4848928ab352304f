"""What a visitor finds at the front door is there, and agrees with the code."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_version_names_the_versions_that_a_bug_report_needs():
    done = subprocess.run(
        [sys.executable, "-m", "glowctl.commands.app", "--version"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for name in ("glowctl", "ray", "mlflow", "torch"):
        assert f"{name} {version(name)}" in done.stdout


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == metadata("glowctl")["License-Expression"]


@pytest.mark.parametrize("package", ["glow", "jobs/glowctl"])
def test_the_packages_have_types(package):
    assert (ROOT / package / "py.typed").is_file()


def jobs_of(workflow: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text())["jobs"]


@pytest.mark.parametrize("workflow", ["ci", "nightly", "publish"])
def test_the_workflows_call_make(workflow):
    commands = [step["run"] for job in jobs_of(workflow).values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        assert command.removeprefix("make ") in TARGETS


def test_a_tag_is_published_only_if_it_is_the_version():
    for tag, code in ((f"v{PROJECT['version']}", 0), ("v99.0.0", 2)):
        make = ["make", "--silent", "tagged", f"PYTHON={sys.executable}"]
        assert subprocess.run(make, cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag}, timeout=60).returncode == code


def test_the_workflow_runs_on_every_python_that_is_supported():
    jobs = jobs_of("ci")
    pythons = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == pythons


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_to_files_and_make_targets_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in TARGETS, target


@pytest.mark.parametrize("document", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_of_the_documents_lead_somewhere(document):
    folder = ROOT / "docs"
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (folder / document).read_text()):
        made_with_the_site = link.startswith("reference/")  # by docs/site_pages.py; `make docs` checks these
        assert link.startswith("https://") or made_with_the_site or (folder / link).exists(), link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
