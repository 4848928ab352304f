import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from glowctl.tracking.store import open_store
from tests.jobs.command_line import OneProcess
from tests.jobs.served import Trained, load
from tests.jobs.trained import train_into


@pytest.fixture(scope="session")
def one_process() -> Iterator[OneProcess]:
    commands = OneProcess()
    yield commands
    commands.end()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store without runs: to make one takes seconds, to copy it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}", "Default")
    return path


@pytest.fixture
def uri(tmp_path, empty_store) -> str:
    """Of a store of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory, empty_store) -> tuple[Path, str]:
    """A folder with a store that has a model of the digits, and the id of its run. Tests may add other runs."""
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder, train_into(folder)


@pytest.fixture(scope="session")
def trained_glow(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def saved_model(trained_glow, tmp_path_factory) -> Path:
    """The folder of an MLflow model."""
    return trained_glow.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="session")
def served(saved_model):
    return load(saved_model)
