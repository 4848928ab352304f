"""What all tests share: an environment of their own, and the order of their files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.demo import Demo
    from tests.glow.buckets import Bucket

# Before torch, ray or mlflow is imported anywhere; the commands that tests start inherit it. The models of tests are so
# small that a second thread only costs time. Workers of a job set the number of their threads themselves.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    MLFLOW_DISABLE_TELEMETRY="true",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that start Ray first: they take longest, and none of them should be left to one process at the end."""
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in with_ray)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`glowctl demo`, run once for all that look at what it leaves."""
    from tests.demo import run_demo

    return run_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """An empty bucket in a stand-in for S3, with a separate cache."""
    from tests.glow.buckets import stand_in

    monkeypatch.setenv("GLOW_BUCKET_CACHE", str(tmp_path / "cache"))
    with stand_in(monkeypatch) as bucket:
        yield bucket
