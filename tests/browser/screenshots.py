"""The pictures of the MLflow UI in the README: `make screenshots`, or with the record of a demo that is there already
`GLOW_DEMO_RECORD=sqlite:///mlflow.db make screenshots`."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from glowctl.tracking.runs import experiment_runs
from tests.browser.pages import Ui, fresh_browser
from tests.browser.served import served
from tests.demo import run_demo

IMAGES = Path(__file__).parents[2] / "docs" / "images"
COLOURS = 256


def save(ui: Ui, name: str, height: int) -> None:
    """What is at the top of the page, in few colours, without the button of the assistant."""
    ui.page.set_viewport_size({"width": 1280, "height": height})
    ui.page.add_style_tag(content="[data-assistant-ui] { visibility: hidden }")
    ui.page.mouse.move(1279, 0)
    path = IMAGES / f"ui-{name}.png"
    with Image.open(io.BytesIO(at_rest(ui))) as picture:
        few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.relative_to(IMAGES.parents[1])}  {path.stat().st_size / 1000:.0f} KB")


def at_rest(ui: Ui) -> bytes:
    """The page once it moves no more."""
    last = b""
    while (now := ui.page.screenshot(animations="disabled")) != last:
        last = now
        ui.page.wait_for_timeout(500)
    return now


def take(ui: Ui, uri: str) -> None:
    runs = experiment_runs(uri, "glow")
    newest = {run.data.tags["glow.job"]: run for run in reversed(runs) if "glow.trial" not in run.data.tags}
    ablation, ood = newest["ablate"].info.run_id, newest["ood"].info
    model, where = newest["ood"].data.tags["glow.train_run"], ood.experiment_id
    ui.open_runs(where)
    hide_banner(ui)
    ui.expand(ablation)
    ui.expand(model)
    expect(ui.run_link(ood.run_id)).to_be_visible()
    save(ui, "runs", 760)
    ui.open_charts(where)
    ui.expand(ablation)
    ui.page.get_by_placeholder("Search metric charts").fill("bits_per_dim")
    expect(ui.page.get_by_role("heading", name="test/bits_per_dim_by_epoch").first).to_be_visible()
    expect(ui.lines().nth(8)).to_be_attached()
    save(ui, "charts", 760)
    ui.open_artifact(where, ood.run_id, "ood_ratios.json")
    expect(ui.page.get_by_role("table")).to_be_visible()
    ui.page.get_by_text("Path:").first.evaluate("it => it.style.visibility = 'hidden'")  # of this machine
    save(ui, "ood", 560)
    ui.open("models/glow-digits")
    expect(ui.page.get_by_text("champion").first).to_be_visible()
    save(ui, "model", 720)


def hide_banner(ui: Ui) -> None:
    for button in ui.page.get_by_role("button", name="Hide banner").all():  # some versions of MLflow have none
        button.click()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        uri = os.environ.get("GLOW_DEMO_RECORD") or run_demo(Path(folder)).uri
        with served(uri, Path(folder)) as landing, fresh_browser(height=760) as page:
            ui = Ui(page, landing.partition("/#")[0])
            ui.without_assistant()
            take(ui, uri)


if __name__ == "__main__":
    main()
