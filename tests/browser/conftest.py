import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from glowctl.tracking.runs import experiment_runs
from tests.browser.served import served

EXPERIMENT = "glow"


@dataclass(frozen=True)
class Recorded:
    """What `glowctl demo` has left in a store."""

    uri: str
    experiment_id: str
    ablation: Any
    trials: list[Any]  # the oldest first
    by_job: dict[str, Any]  # the newest of each evaluation
    best: Any  # the trial that was evaluated


@pytest.fixture(scope="session")
def chromium() -> str:
    pytest.importorskip("playwright.sync_api", reason="needs playwright")
    from tests.browser.pages import CHROMIUM

    if CHROMIUM is None:
        pytest.skip("needs Chromium: install it, or say in CHROMIUM where it is")
    return CHROMIUM


@pytest.fixture(scope="session")
def record(chromium: str, request: pytest.FixtureRequest) -> Recorded:
    uri = os.environ.get("GLOW_DEMO_RECORD") or request.getfixturevalue("demo").uri
    runs = experiment_runs(uri, EXPERIMENT)
    trials = [run for run in runs if "glow.trial" in run.data.tags][::-1]
    by_job = {run.data.tags["glow.job"]: run for run in reversed(runs) if "glow.trial" not in run.data.tags}
    best = next(run for run in trials if run.info.run_id == by_job["ood"].data.tags["glow.train_run"])
    return Recorded(uri, by_job["ood"].info.experiment_id, by_job["ablate"], trials, by_job, best)


@pytest.fixture(scope="session")
def landing(record: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address that `glowctl ui` prints."""
    with served(record.uri, tmp_path_factory.mktemp("ui")) as page:
        yield page


@pytest.fixture
def ui(landing: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """MLflow's UI in a profile that has never seen it. A test that fails leaves a picture of its page."""
    from tests.browser.pages import Ui, fresh_browser

    with fresh_browser() as page:
        yield Ui(page, landing.partition("/#")[0])
        if getattr(request.node, "failed", False):
            picture = tmp_path / "page.png"
            page.screenshot(path=picture)
            print(f"the page at the failure: {picture}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    item.failed = getattr(item, "failed", False) or report.failed  # type: ignore[attr-defined]
    return report
