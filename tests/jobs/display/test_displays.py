import errno
import io
import json
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from glowctl.display.displays import JsonLines, LiveBar, LiveTable, PlainLines, Wire, sent_event
from glowctl.display.events import (
    KINDS,
    AblationSummary,
    Checked,
    Epoch,
    Event,
    Failed,
    Interpolation,
    Nll,
    Node,
    Restart,
    Samples,
    Started,
    Step,
    TrainResult,
    TrialEnded,
    TrialEvent,
)
from glowctl.display.lines import sizes_sentence
from glowctl.errors import SpecError
from glowctl.text import duration

STARTED = Started(
    workers=2,
    epoch=0,
    device="CPU",
    precision="float32",
    parameters=9,
    restarts=0,
    startup_seconds=8.6,
    run="train x",
    run_id="abc",
    epochs=2,
)
STEP = Step(
    epoch=1,
    epochs=2,
    step=5,
    steps=10,
    images_per_second=123.4,
    train_bits_per_dim=2.5,
    validation_bits_per_dim=2.6,
    seconds_left=65.0,
)
EPOCH = Epoch(
    epoch=1,
    epochs=2,
    step=10,
    train_bits_per_dim=2.5,
    validation_bits_per_dim=math.nan,
    images_per_second=100.0,
    gradient_norm=1.0,
    learning_rate=0.1,
    seconds=3.0,
    seconds_left=61.0,
    skipped_steps=3,
    test_bits_per_dim_by_epoch=math.nan,
)
RESTART = Restart(
    workers=2,
    epoch=1,
    device="CPU",
    precision="float32",
    parameters=9,
    restarts=1,
    run="train x",
    run_id="abc",
    epochs=2,
)
FINISHED = TrainResult(
    run="train x",
    run_id="abc",
    test_bits_per_dim=1.65,
    test_bits_per_dim_original=2.155,
    validation_bits_per_dim=1.6,
    best_epoch=2,
    images_per_second=99.0,
    restarts=1,
    skipped_steps=3,
    seconds=3725.0,
    image_shape=(1, 32, 32),
    original_shape=(1, 28, 28),
    sample_grid="samples.png",
    checkpoint=None,
    model="models:/glow-digits/1",
    open_with="glowctl ui",
)
EVENTS = [STARTED, STEP, EPOCH, RESTART, FINISHED]

SUMMARY = AblationSummary(
    run="ablate x",
    run_id="abc",
    trials=2,
    finished=1,
    factors=["depth"],
    configurations=[{"depth": 8, "seeds": 1, "bits_per_dim": 1.5, "parameters": 9}],
    differences=[{"factor": "depth", "a": 8, "b": 16, "difference": -0.1, "p": math.nan, "seeds": 1}],
    conclusions=["depth: a sentence."],
    unfinished=[],
    best={"trial": "K8 s0", "run_id": "def", "reason": None},
    champion={"name": "glow-digits", "version": "1", "run_id": "def", "new": True, "scored_lower": False},
    champion_uri="models:/glow-digits@champion",
    place="outputs",
    open_with="glowctl ui",
)
NLL = Nll(
    run="nll x",
    run_id="abc",
    split="test",
    rows=[{"dataset": "digits", "images": 9, "bits_per_dim": 1.5, "non_finite": 0}],
    per_class=[{"dataset": "digits", "class_name": "7", "images": 3, "bits_per_dim": math.inf}],
    place="outputs",
    open_with="glowctl ui",
)
FAILED = Failed.by(SpecError("--depth is 0", remedy="use 1", code="setting-not-allowed"))
OF_CLUSTER = Checked([Node("host", 2.0, 0.0)], None, "/storage", ["a problem"])


def plain(event: Event) -> str:
    """Return the plain lines of an event that has some."""
    text = PlainLines().text(event)
    assert text is not None
    return text


def test_plain_lines_leave_steps_out():
    out = io.StringIO()
    with PlainLines(out) as show:
        for event in EVENTS:
            show(event)
    lines = out.getvalue().splitlines()
    for line, expected in (
        (0, ["'train x'", "2 workers", "(CPU)", "9 s", "run abc"]),
        (1, ["epoch 1/2", "train 2.500", "- bits/dim", "100 images/s", "1:01", "3 steps skipped"]),
        (2, ["worker was lost", "epoch 1", "restart 1"]),
        (3, ["test", "1.650 bits/dim", "32x32", "2.155", "28x28"]),
        (-1, ["run       abc", "glowctl ui"]),
    ):
        assert [fact for fact in expected if fact not in lines[line]] == []
    assert not any("step 5/10" in line for line in lines)


def test_json_lines_are_valid_json_without_nan():
    out = io.StringIO()
    with JsonLines(out) as show:
        for event in EVENTS:
            show(event)
    parsed = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in parsed] == ["started", "step", "epoch", "restart", "finished"]
    assert parsed[2]["validation_bits_per_dim"] is None


def test_json_has_what_an_event_says_and_no_more():
    """A restart has no start-up time, and the events of a trial have its label instead of a run."""
    assert json.loads(JsonLines().text(RESTART)) == {
        "event": "restart",
        "workers": 2,
        "epoch": 1,
        "device": "CPU",
        "precision": "float32",
        "parameters": 9,
        "restarts": 1,
        "run": "train x",
        "run_id": "abc",
        "epochs": 2,
    }
    started = TrialEvent("1x1 s0", replace(STARTED, startup_seconds=None, run=None, run_id=None))
    assert json.loads(JsonLines().text(started)) == {
        "event": "trial_started",
        "trial": "1x1 s0",
        "workers": 2,
        "epoch": 0,
        "device": "CPU",
        "precision": "float32",
        "parameters": 9,
        "restarts": 0,
        "epochs": 2,
    }
    ended = TrialEnded("1x1 s0", "finished", None, 1.5, 1, 2)
    assert json.loads(JsonLines().text(ended))["reason"] is None


def test_an_error_has_no_text_because_standard_error_has_its_sentence():
    assert PlainLines().text(FAILED) is None
    assert json.loads(JsonLines().text(FAILED)) == {
        "event": "error",
        "code": "setting-not-allowed",
        "problem": "--depth is 0",
        "remedy": "use 1",
        "exit_code": 2,
    }


def test_a_terminal_shows_where_the_epoch_stands():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160)
    with LiveBar(console) as show:
        for event in EVENTS[:2]:
            show(event)
    text = out.getvalue()
    for part in ("epoch 1/2", "step 5/10", "2.500", "2.600 bits/dim", "123 images/s", "1:05 left"):
        assert part in text


@pytest.mark.parametrize("display", [LiveBar, LiveTable])
def test_a_terminal_that_was_closed_does_not_hide_how_the_job_ended(display):
    class Terminal(io.StringIO):
        closed_by_user = False

        def write(self, text: str) -> int:
            if self.closed_by_user:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    def work() -> None:
        terminal.closed_by_user = True
        raise KeyboardInterrupt

    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), display(Console(file=terminal, force_terminal=True)):
        work()


def test_sizes():
    same = replace(FINISHED, image_shape=(3, 32, 32), original_shape=(3, 32, 32))
    assert re.findall(r"\d[\d.x]*", sizes_sentence(same)) == ["1.650", "32x32"]
    shrunk = replace(FINISHED, image_shape=(1, 8, 8))
    assert re.findall(r"\d[\d.x]*", sizes_sentence(shrunk)) == ["1.650", "8x8", "28x28"]


def test_durations():
    assert [duration(s) for s in (0, 65, 3725, math.nan)] == ["0:00", "1:05", "1:02:05", "-"]


@pytest.mark.parametrize(
    "event",
    [
        *EVENTS,
        replace(STEP, seconds_left=math.inf),
        SUMMARY,
        NLL,
        OF_CLUSTER,
        FAILED,
        TrialEvent("1x1 s0", EPOCH),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_is_the_same_at_the_other_end_of_the_wire(event):
    out = io.StringIO()
    Wire(out).show(event)
    (line,) = out.getvalue().splitlines()
    arrived = sent_event(line)
    assert arrived is not None
    assert repr(arrived) == repr(event)  # in which NaN is equal to NaN
    assert JsonLines().text(arrived) == JsonLines().text(event)


def test_every_kind_that_scripts_read_has_its_name():
    of_commands = {"error", "note", "report", "packing", "packed", "submitted", "checked", "waiting"}
    of_trainings = {"started", "restart", "resize", "step", "epoch", "stopped", "finished"}
    of_ablations = {"plan", "ablating", "trial_ended", "ablation_stopped", "ablated"}
    of_evaluations = {"evaluating", "absent", "scoring", "scored", "nll", "samples", "interpolation", "ood"}
    assert KINDS.keys() >= of_commands | of_trainings | of_ablations | of_evaluations


@pytest.mark.parametrize(
    "line",
    [
        *("", "Traceback", '{"a": 1}', '{"event": "step"', "2026 INFO {'event': 1}"),
        *('{"event": "weather"}', '{"event": "step", "epoch": 1}', '{"event": "trial_step"}', '{"event": 3}'),
    ],
)
def test_other_lines_are_no_events(line):
    assert sent_event(line) is None


def test_samples_that_are_not_finite_are_said_if_there_are_any():
    event = Samples(
        run="sample x", run_id="abc", temperatures=[0.7], images=9, pictures=["picture.png"], open_with="glowctl ui"
    )
    assert "finite" not in plain(event)
    _, second, *places = plain(replace(event, non_finite=1)).splitlines()
    assert [fact for fact in ("1 image has", "not finite", "--scale floored") if fact not in second] == []
    assert len(places) == 2


def test_ends_that_are_not_the_images_are_said():
    event = Interpolation(
        run="interpolate x",
        run_id="abc",
        pairs=3,
        steps=9,
        mode="linear",
        end_error=2.5,
        inexact_rows=2,
        non_finite=4,
        scale="sigmoid",
        picture="picture.png",
        open_with="glowctl ui",
    )
    first, second, *places = plain(event).splitlines()
    assert [fact for fact in ("3 rows", "9 images", "linear", "2 rows", "NOT", "2.5 of 256") if fact not in first] == []
    assert [fact for fact in ("4 images", "--scale sigmoid", "--scale floored") if fact not in second] == []
    assert [line.split()[1].strip(";") for line in places] == ["picture.png", "abc"]
    # It is floored already, or has no such scale.
    for other in (replace(event, scale="floored"), replace(event, coupling="spline")):
        second = plain(other).splitlines()[1]
        assert "4 images" in second
        assert "--scale" not in second
    assert "2.5 of 32" in plain(replace(event, bits=5))
    exact = plain(replace(event, bits=5, inexact_rows=0))
    assert "5 bits" in exact
    assert "NOT" not in exact
