import shutil
from pathlib import Path

import pytest

from jobs.tracking import open_store


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
