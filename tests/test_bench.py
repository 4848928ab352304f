"""Tests of `make bench`. They time nothing and do not need normflows."""

import itertools
import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks import ood_cost
from benchmarks.__main__ import arguments
from benchmarks.bare import BareConvolutions
from benchmarks.contestants import Job, Work, convolutions, glow, images_and_noise
from benchmarks.document import filled
from benchmarks.equal_time import CHOICES
from benchmarks.memory import gradient_difference
from benchmarks.optimisations import WITHOUT
from benchmarks.packing import _cost, write_textures
from benchmarks.passes import counted, our_way, report_way
from benchmarks.precision import unchanged
from benchmarks.racers import glow_racer
from benchmarks.row import Figure, Row, Setting, at_least, at_most, measured
from benchmarks.rows import ROWS
from benchmarks.slopes import SIZES, exponents, jobs
from benchmarks.step_profile import CONVOLUTIONS, COPIES, ELSE, GRADIENTS, OPTIMIZER, RELU, group
from benchmarks.table import table
from benchmarks.timed import Budget, Curve, train_for
from benchmarks.timing import ratio, round_robin
from glow import Glow, GlowConfig
from glow.layers import PlainNetwork
from glow.model import Precision
from glow.scoring import BATCH_SIZE
from jobs.specs.training import make_train_spec
from tests.glow.flows import perturb, small_glow

DOCS = Path(__file__).parents[1] / "docs"
TINY = GlowConfig((1, 16, 16), levels=2, depth=2, width=8)
SHOW_COSTS = {"allocator", "optimisations", "slopes", "profile"}  # these rows have no bar


def example_results() -> dict:
    row = Row("speed", "how fast", lambda how: ([], ""), (at_least("ours", 2, "x"), at_most("wait", 5, "s")))
    figures = [Figure("ours", 1.5, "x"), Figure("theirs", 1234.4, "images/s")]
    machine = {"cpu": "Abacus", "cores": 2, "threads": 2, "bf16": False, "memory_gb": 8, "load": 0.1}
    versions = {"python": "3", "torch": "2", "normflows": "1", "date": "2026-01-01", "quick": False}
    return {"machine": machine | versions, "rows": {"speed": measured(row, figures, "A remark.") | {"seconds": 3.0}}}


def test_every_row_has_a_name_and_a_bar() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS:
        assert row.title
        assert bool(row.bars) != (row.name in SHOW_COSTS)
        assert len({bar.what for bar in row.bars}) == len(row.bars)


def test_rows_are_chosen_by_name() -> None:
    assert arguments(["--only", "scoring,passes"]).only == ["scoring", "passes"]
    assert arguments([]).output == Path("docs/performance.json")
    assert arguments(["--quick"]).output != Path("docs/performance.json")
    with pytest.raises(SystemExit):
        arguments(["--only", "speling"])


def test_a_bar_is_met_missed_or_not_measured() -> None:
    figures = {figure["what"]: figure for figure in example_results()["rows"]["speed"]["figures"]}
    assert figures["ours"]["passed"] is False
    assert "bar" not in figures["theirs"]
    assert figures["wait"]["passed"] is None
    assert figures["wait"]["value"] is None
    assert at_most("wait", 5, "s").met(5)
    assert at_least("ours", 2, "x").met(2)


def test_the_table_shows_bars_verdicts_and_machine() -> None:
    text = table(json.loads(json.dumps(example_results())))
    for part in ("Abacus", "no bf16", "1.50x", "at least 2x", "fail", "1,234 images/s", "not measured", "A remark."):
        assert part in text
    assert [line for line in text.splitlines() if "1 failed" in line and "1 not measured" in line]
    assert text.splitlines()[-1].strip() == "speed: ours"


def test_a_document_gets_the_tables_that_it_names_and_keeps_the_rest() -> None:
    text = "Before\n<!-- bench bars -->\nold\n<!-- end -->\nbetween\n<!-- bench speed -->\n<!-- end -->\nafter"
    made = filled(text, example_results())
    assert "old" not in made
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines()]
    assert ["how fast", "ours", "1.50x", "at least 2x", "fail"] in cells
    assert ["theirs", "1,234 images/s"] in cells
    assert made.endswith("<!-- end -->\nafter")
    assert filled(made, example_results()) == made


def test_the_tables_in_the_docs_are_those_of_the_json() -> None:
    text = (DOCS / "performance.md").read_text()
    assert filled(text, json.loads((DOCS / "performance.json").read_text())) == text


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    taken = round_robin({name: partial(calls.append, name) for name in "ab"}, rounds=2, warmups=1)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert set(taken) == {"a", "b"}


def test_a_ratio_is_of_processor_times_in_turns() -> None:
    calls: list[str] = []

    def work(name: str, loops: int) -> None:
        calls.append(name)
        sum(range(loops))

    assert 2 < ratio(partial(work, "run", 4_000_000), partial(work, "to", 1_000_000), rounds=5, warmups=1) < 8
    assert calls == ["run", "to"] * 6
    assert ratio(partial(time.sleep, 0.2), partial(work, "to", 4_000_000), rounds=1, warmups=0) < 0.2


def test_the_cost_of_an_ood_test_has_a_figure_for_every_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, images in {"TRAIN": 300, "HELD_OUT": 200, "TESTED": 50, "BATCH_SIZE": 10}.items():
        monkeypatch.setattr(ood_cost, name, images)
    monkeypatch.setattr(ood_cost, "MODELS", dict.fromkeys(ood_cost.MODELS, ood_cost.TINY))
    figures, _ = ood_cost.measure(Setting(1, ("float32",), quick=True))
    found = {figure.what: figure.value for figure in figures}
    assert all(found[bar.what] > 0 for bar in ood_cost.ROW.bars)
    assert all(math.isfinite(value) for value in found.values())


def test_the_bare_convolutions_are_those_of_the_coupling_networks() -> None:
    model, bare = Glow(TINY), BareConvolutions(TINY, "float32", batch=3)
    networks = [module for module in model.modules() if isinstance(module, PlainNetwork)]
    seen: list[torch.Size] = []
    for network in networks:
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model.log_prob(*images_and_noise(TINY, 3)[:1])
    ours = [[conv.weight.shape for conv in (net.conv1, net.conv2, net.conv3.conv)] for net in networks]
    assert [[p.shape for p in net.parameters() if p.dim() == 4] for net in bare.networks] == ours
    assert [x.shape for x in bare.inputs] == seen
    assert [y.shape for y in bare()] == [gradient.shape for gradient in bare.gradients]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_bare_convolutions_differentiate_everything(precision: Precision) -> None:
    bare = BareConvolutions(TINY, precision, batch=2)
    bare.train_step()
    assert all(tensor.grad is not None for tensor in (*bare.parameters(), *bare.inputs))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in bare.inputs)


@pytest.mark.parametrize("work", ["training", "scoring", "sampling"])
def test_contestants_do_their_work(work: Work) -> None:
    job = Job(work, TINY, batch=4)
    glow(job, "float32")()
    convolutions(job, "float32")()


@pytest.mark.parametrize("name", WITHOUT)
def test_an_optimisation_changes_no_likelihood(name: str) -> None:
    model = perturb(Glow(TINY))
    images, noise = images_and_noise(TINY, 4)
    fast = model.log_prob(images, noise_BCHW=noise)
    with WITHOUT[name]():
        plain = model.log_prob(images, noise_BCHW=noise)
    torch.testing.assert_close(fast, plain)
    assert model.log_prob(images, noise_BCHW=noise).equal(fast)


def test_the_reports_way_takes_a_pass_a_set_and_comes_to_the_same_thresholds() -> None:
    model = small_glow()
    train, held_out = images_and_noise(model.config, 600)[0].split(300)
    scored = math.ceil(300 / BATCH_SIZE)
    with counted(model) as ours:
        our_thresholds = our_way(model, train, held_out, 20, (1, 3))
    with counted(model) as theirs:
        their_thresholds = report_way(model, train, held_out, 20, (1, 3))
    assert our_thresholds == pytest.approx(their_thresholds, rel=1e-4)
    assert (ours.passes, ours.images) == (2 * scored, 300 + 300)
    assert (theirs.passes, theirs.images) == (scored + 2 * 20, 300 + 20 * (1 + 3))


def test_reversible_gradients_are_compared_tensor_by_tensor() -> None:
    assert 0 <= gradient_difference(torch.float64, TINY) < 1e-9
    assert gradient_difference(torch.float32, TINY) < 1e-3


def test_cells_are_unchanged_within_each_others_intervals() -> None:
    before = pd.DataFrame({"ratio": [0.5, 0.5], "ratio_low": [0.4, 0.4], "ratio_high": [0.6, 0.6]})
    after = pd.DataFrame({"ratio": [0.55, 0.7], "ratio_low": [0.45, 0.65], "ratio_high": [0.65, 0.75]})
    assert unchanged(before, after).tolist() == [True, False]


def test_slopes_double_one_size_twice() -> None:
    assert exponents([1, 2, 8]) == [1, 2]
    for name, sizes in SIZES.items():
        assert [size / sizes[0] for size in sizes] == [1, 2, 4]
        assert len(set(jobs(name))) == len(sizes)


@pytest.mark.parametrize(
    ("name", "within", "expected"),
    [
        ("mkldnn::_convolution_pointwise", (), CONVOLUTIONS),
        ("aten::addmm", ("_ReversibleStep",), CONVOLUTIONS),
        ("aten::mm", ("autograd::engine::evaluate_function: AddmmBackward0",), GRADIENTS),
        ("aten::mkldnn_convolution_backward", (), GRADIENTS),
        ("aten::threshold_backward", (), RELU),
        ("aten::copy_", ("autograd::engine::evaluate_function: CatBackward0",), COPIES),
        ("aten::mul", ("optimizer",), OPTIMIZER),
        ("step", (), ELSE),
        ("autograd::engine::evaluate_function: AddmmBackward0", (), ELSE),
    ],
)
def test_an_operator_of_the_profile_has_a_group(name: str, within: tuple[str, ...], expected: str) -> None:
    assert group(name, within) == expected


def test_a_figure_that_is_nan_was_not_measured() -> None:
    row = Row("a", "a", lambda how: ([], ""), (at_least("b", 1, "x"),))
    (figure,) = measured(row, [Figure("b", math.nan, "x")], "")["figures"]
    assert figure["value"] is None
    assert figure["passed"] is None


def test_a_curve_says_when_a_score_was_reached() -> None:
    curve = Curve([1.0, 2.0, 3.0], [5.0, 3.0, 4.0])
    assert (curve.reached(3.5), curve.reached(3.0), curve.reached(2.0)) == (2.0, 2.0, math.inf)
    assert curve.best == 3.0


@pytest.mark.parametrize("steps", [20, 90, 1000])
def test_slow_and_fast_models_have_equal_learning_rates_at_equal_times(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(seconds=30.0, threads=1, batch_size=1, learning_rate=0.01)
    clock = itertools.count()  # read at the start and at the end of each step
    monkeypatch.setattr(time, "process_time", lambda: next(clock) * budget.seconds / steps)
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    model = torch.nn.Linear(1, 1)
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    train_for(budget, model, lambda images, noise: model(noise).flatten(), images, images)
    hook.remove()
    assert len(rates) == pytest.approx(steps, abs=1)  # the sum of the steps' times is rounded
    # The warm-up ends after 5 % of the time, whatever the number of steps; half a cosine is then at 0.994.
    assert max(rates) == pytest.approx(0.994 * 0.01, rel=0.01)
    assert rates[len(rates) // 2] == pytest.approx(0.005, rel=0.01)


@pytest.mark.slow
def test_training_by_the_clock_learns_looks_and_ends_early() -> None:
    images, _ = images_and_noise(TINY, 64)
    images = images // 16  # dark ones, so that there is something to learn
    budget = Budget(seconds=2.0, threads=1, batch_size=16, learning_rate=1e-2)
    whole = train_for(budget, *glow_racer(TINY, images), images, images[:8], looks=4)
    assert len(whole.seconds) == 4
    assert whole.seconds == sorted(whole.seconds)
    assert whole.bits_per_dim[-1] < whole.bits_per_dim[0]
    early = train_for(budget, *glow_racer(TINY, images), images, images[:8], looks=4, enough=math.inf)
    assert len(early.seconds) == 1


def test_choices_that_are_compared_in_equal_time_are_trainings() -> None:
    for changes in CHOICES.values():
        make_train_spec("laptop", changes)


def test_packing_is_measured_on_png_and_jpeg_images(tmp_path: Path) -> None:
    write_textures(tmp_path / "textures", images=4, size=(24, 16))
    assert [path.suffix for path in sorted((tmp_path / "textures").iterdir())] == [".jpg", ".png"] * 2


def test_the_cost_of_a_call_contains_the_processors_of_its_processes() -> None:
    busy = "import time\nwhile time.process_time() < 1: pass"
    assert _cost(lambda: subprocess.run([sys.executable, "-c", busy], check=True)).cpu > 0.3
