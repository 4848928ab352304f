"""Requests to `mlflow models serve`, and a model in an environment that has nothing but its requirements."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.jobs.command_line import environment, free_port
from tests.jobs.requirements import closure, link
from tests.jobs.served import IMAGE, every_bad, running, same


@pytest.fixture(scope="module")
def answers(saved_model, tmp_path_factory):
    """Start a real scoring server, and yield a function that sends it a request and returns the answer."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", str(saved_model), "--env-manager", "local"]
    command = [str(Path(sys.executable).with_name("mlflow")), *command[1:], "-h", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"

    def ask(given, params, key="inputs"):
        body = json.dumps({key: given, "params": params})
        return requests.post(f"{url}/invocations", data=body, headers={"Content-Type": "application/json"}, timeout=60)

    with running(command, f"{url}/ping"):
        yield ask


@pytest.mark.parametrize("m", [1, 10])
@pytest.mark.parametrize("key", ["inputs", "instances"])
@pytest.mark.slow
def test_over_http_predictions_are_those_of_the_library(answers, trained_glow, m, key):
    for params in ({}, {"alpha": 0.9, "first_index": 5}, {"alpha": None}):
        answer = answers(trained_glow.images[:m].tolist(), params, key)
        assert answer.status_code == 200
        known = {name: value for name, value in params.items() if value is not None}
        assert same(answer.json()["predictions"], trained_glow.expected(trained_glow.images[:m], **known))


@every_bad
@pytest.mark.slow
def test_over_http_what_cannot_be_tested_is_refused_with_the_sentence(answers, given, params, facts):
    answer = answers(given, params)
    assert answer.status_code == 400
    for fact in facts:
        assert fact in answer.json()["message"]


@pytest.mark.slow
def test_over_http_what_is_no_batch_is_refused(answers):
    for given in ({"image": [IMAGE]}, [{"images": IMAGE}], 5, "text", None):
        assert answers(given, {}).status_code == 400
    assert answers([IMAGE], [1]).status_code == 400
    assert answers([IMAGE], {}, "images").status_code == 400
    table = {"columns": ["images"], "data": [[IMAGE]]}
    assert answers(table, {}, "dataframe_split").status_code == 400


def check_it_answers(python: list[str], folder: Path, trained_glow, **changes: str) -> None:
    """Load the model in `folder` with a Python that has only the model's requirements, and compare its answer."""
    np.save(folder / "images.npy", trained_glow.images[:10])
    script = """
import importlib, json, sys
import mlflow.pyfunc, numpy as np
for name in ("ray", "glow", "glowctl"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is here")
model = mlflow.pyfunc.load_model("model")
print(json.dumps(model.predict(np.load("images.npy"), params={"alpha": 0.95})))
import glow
assert "/model/code/glow" in glow.__file__, glow.__file__
"""
    done = subprocess.run(
        [*python, "-c", script],
        cwd=folder,
        env={name: text for name, text in environment().items() if name != "PYTHONPATH"} | changes,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert same(json.loads(done.stdout), trained_glow.expected(trained_glow.images[:10], 0.95))


@pytest.mark.slow
def test_it_loads_where_only_its_own_requirements_can_be_imported(saved_model, trained_glow, tmp_path):
    model = shutil.copytree(saved_model, tmp_path / "model")
    needed = closure((model / "requirements.txt").read_text().splitlines())
    link(needed, tmp_path / "packages")
    check_it_answers([sys.executable, "-S"], tmp_path, trained_glow, PYTHONPATH=str(tmp_path / "packages"))


@pytest.mark.nightly
@pytest.mark.install
@pytest.mark.timeout(900)
def test_it_loads_where_pip_has_installed_only_its_own_requirements(saved_model, trained_glow, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    model = shutil.copytree(saved_model, tmp_path / "model")
    install = [python, "-m", "pip", "install", "--quiet", "-r", model / "requirements.txt"]
    subprocess.run(install, check=True, timeout=700)
    check_it_answers([str(python)], tmp_path, trained_glow)
