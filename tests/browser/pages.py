"""The pages of MLflow's UI, as the browser test and the screenshots use them: found by roles, by what MLflow's own
tests call them, and by addresses, which hold the ids of runs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, expect, sync_playwright

from glowctl.browse.ui import CLASSIC

PATIENCE_MS = 60_000
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""A browser on the server's own machine is else shown an assistant, over a third of the page."""


@contextmanager
def fresh_browser(height: int = 900, scale: float = 1.0) -> Iterator[Page]:
    """A page in a profile that has never seen MLflow, 1280 pixels wide."""
    with sync_playwright() as playwright:
        # As root Chromium runs without its sandbox alone; it opens nothing but a server of this machine.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            context = browser.new_context(viewport={"width": 1280, "height": height}, device_scale_factor=scale)
            context.set_default_timeout(PATIENCE_MS)
            yield context.new_page()
        finally:
            browser.close()


class Ui:
    """MLflow's UI at an address, in a page of a browser."""

    def __init__(self, page: Page, address: str) -> None:
        expect.set_options(timeout=PATIENCE_MS)
        self.page, self.address = page, address

    def open(self, path: str, query: str = CLASSIC) -> None:
        self.page.goto("about:blank")  # or an address that differs after the # alone would not be loaded anew
        self.page.goto(f"{self.address}/#/{path}?{query}")

    def without_assistant(self) -> None:
        self.page.context.add_init_script(NO_ASSISTANT)

    def open_runs(self, experiment_id: str) -> None:
        self.open(f"experiments/{experiment_id}/runs", CLASSIC)
        self.wait_for_runs()

    def wait_for_runs(self) -> None:
        expect(self.page.get_by_text(re.compile(r"\d+ matching runs?"))).to_be_visible()

    def open_charts(self, experiment_id: str) -> None:
        self.open(f"experiments/{experiment_id}/runs", f"{CLASSIC}&compareRunsMode=CHART")

    def open_run(self, experiment_id: str, run_id: str, tab: str = "") -> None:
        self.open(f"experiments/{experiment_id}/runs/{run_id}{tab and '/'}{tab}")

    def open_artifact(self, experiment_id: str, run_id: str, path: str) -> None:
        self.open_run(experiment_id, run_id, "artifacts")
        self.page.get_by_text(path, exact=True).first.click()

    def run_link(self, run_id: str) -> Locator:
        """A run's name in the table of runs."""
        return self.page.locator(f"[role=gridcell] a[href$='/runs/{run_id}']")

    def expand(self, run_id: str) -> None:
        """Shows what is beneath a run in the table."""
        cell = self.page.locator(f"[role=gridcell]:has(a[href$='/runs/{run_id}'])")
        cell.get_by_role("button").first.click()

    def lines(self) -> Locator:
        """Lines that are drawn in charts."""
        return self.page.locator(".js-plotly-plot .scatterlayer .trace path.js-line[d*='L']")
