"""The wheel outside of any clone: what it contains, what it needs, and that other packages do not collide with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.jobs.requirements import closure, link

ROOT = Path(__file__).parents[1]
LIBRARY = ("torch", "numpy", "pandas", "pillow", "safetensors", "scikit-learn")
"""What README.md tells people to install who want the library alone."""

TRAIN = """
import importlib.util as find
from glow import FitConfig, Glow, GlowConfig, fit, load_dataset, score
assert not any(map(find.find_spec, ("ray", "mlflow", "typer")))
digits, _ = load_dataset("digits", "train")
model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=2, width=8))
fit(model, digits[:64], config=FitConfig(epochs=1, batch_size=32, warmup_steps=1))
print(len(score(model, digits[:5])))
"""


def build(folder: Path) -> dict[str, Path]:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, timeout=60)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def packages(built, tmp_path_factory):
    """A folder of packages like site-packages, with the wheel and somebody else's package `jobs`."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "__init__.py").write_text("OURS = False\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, built[".whl"]]
    subprocess.run(install, check=True, timeout=60)
    return folder


def run(folder: Path, *arguments: str, needed: tuple[Path, ...], code: int = 0) -> str:
    """Run a Python that finds packages in the folders `needed` alone, in `folder`."""
    own = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "GLOW"))}
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env=own | {"PYTHONPATH": os.pathsep.join(map(str, needed))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_two_builds_are_equal_byte_for_byte(built, tmp_path):
    for suffix, again in build(tmp_path).items():
        assert again.read_bytes() == built[suffix].read_bytes()


def test_the_wheel_contains_every_file_of_the_two_packages_and_no_others(built):
    names = zipfile.ZipFile(built[".whl"]).namelist()
    list_files = ["git", "ls-files", "glow", "jobs", "cluster.yaml", "deploy"]
    tracked = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    cluster = {name for name in tracked if not name.startswith(("glow/", "jobs/"))}
    assert {name for name in names if ".dist-info/" not in name} == {
        name.removeprefix("jobs/") for name in set(tracked) - cluster
    } | {f"glowctl/cluster/files/{name}" for name in cluster}


def test_the_library_trains_where_ray_mlflow_and_typer_are_missing(packages, tmp_path):
    link(closure(LIBRARY), tmp_path / "library")
    assert run(tmp_path, "-c", TRAIN, needed=(packages, tmp_path / "library")) == "5\n"


def test_the_command_judges_by_its_own_model_beside_a_package_that_is_named_jobs(packages, tmp_path):
    link([each for each in closure(["glowctl"]) if each.name != "glowctl"], tmp_path / "all")
    needed = (packages, tmp_path / "all")
    assert "glowctl 0.1.0" in run(tmp_path, "-m", "glowctl.commands.app", "--version", needed=needed)
    assert run(tmp_path, "-c", "import jobs; print(jobs.OURS)", needed=needed) == "False\n"
    run(tmp_path, "-m", "glowctl.commands.app", "cluster", "init", "aws", needed=needed)
    assert (tmp_path / "deploy" / "head.sh").read_text() == (ROOT / "deploy" / "head.sh").read_text()
    photos = "from PIL import Image; Image.new('L', (28, 28)).save('black.png')"
    run(tmp_path, "-c", photos, needed=(tmp_path / "all",))
    check = ("check", "black.png", "--model", "pretrained:mnist", "--no-record")
    assert "belong" in run(tmp_path, "-m", "glowctl.commands.app", *check, needed=needed, code=3)
