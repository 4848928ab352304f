import io
import json
import math

import pytest
from rich.console import Console

from jobs.display.displays import JsonLines, LiveBar, PlainLines, Wire, sent_event
from jobs.display.training_lines import sizes_sentence
from jobs.text import duration

STARTED = {
    "event": "started",
    "run": "train x",
    "run_id": "abc",
    "workers": 2,
    "device": "CPU",
    "epochs": 2,
    "startup_seconds": 8.6,
}
STEP = {
    "event": "step",
    "epoch": 1,
    "epochs": 2,
    "step": 5,
    "steps": 10,
    "images_per_second": 123.4,
    "train_bits_per_dim": 2.5,
    "validation_bits_per_dim": 2.6,
    "seconds_left": 65.0,
}
EPOCH = {
    "event": "epoch",
    "epoch": 1,
    "epochs": 2,
    "train_bits_per_dim": 2.5,
    "validation_bits_per_dim": math.nan,
    "images_per_second": 100.0,
    "seconds_left": 61.0,
    "skipped_steps": 3,
}
FINISHED = {
    "event": "finished",
    "test_bits_per_dim": 1.65,
    "test_bits_per_dim_original": 2.155,
    "image_shape": (1, 32, 32),
    "original_shape": (1, 28, 28),
    "seconds": 3725.0,
    "images_per_second": 99.0,
    "best_epoch": 2,
    "sample_grid": "samples.png",
    "checkpoint": "checkpoint",
    "model": "models:/glow-digits/1",
    "run_id": "abc",
    "open_with": "glowctl ui",
}
EVENTS = [STARTED, STEP, EPOCH, {"event": "restart", "epoch": 1, "restarts": 1}, FINISHED]


def test_plain_lines_leave_steps_out():
    out = io.StringIO()
    with PlainLines(out) as show:
        for event in EVENTS:
            show(event)
    lines = out.getvalue().splitlines()
    assert lines[0] == "training train x on 2 workers (CPU), ready in 9 s, run abc"
    assert lines[1] == "epoch 1/2  train 2.500  validation - bits/dim  100 images/s  1:01 left, 3 steps skipped"
    assert "a worker was lost: training restarted after epoch 1 (restart 1)" in lines[2]
    assert lines[3] == "test      1.650 bits/dim at 32x32, 2.155 per original pixel (28x28)"
    assert "run       abc; to see it: glowctl ui" in lines
    assert not any("step 5/10" in line for line in lines)


def test_json_lines_are_valid_json_without_nan():
    out = io.StringIO()
    with JsonLines(out) as show:
        for event in EVENTS:
            show(event)
    parsed = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in parsed] == ["started", "step", "epoch", "restart", "finished"]
    assert parsed[2]["validation_bits_per_dim"] is None


def test_a_terminal_shows_where_the_epoch_stands():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160)
    with LiveBar(console) as show:
        for event in EVENTS[:2]:
            show(event)
    text = out.getvalue()
    for part in ("epoch 1/2", "step 5/10", "train 2.500  validation 2.600 bits/dim", "123 images/s", "1:05 left"):
        assert part in text


def test_sizes():
    same = FINISHED | {"image_shape": (3, 32, 32), "original_shape": (3, 32, 32)}
    assert sizes_sentence(same) == "1.650 bits/dim at 32x32"
    shrunk = FINISHED | {"image_shape": (1, 8, 8)}
    assert sizes_sentence(shrunk) == "1.650 bits/dim at 8x8, shrunk from 28x28"


def test_durations():
    assert [duration(s) for s in (0, 65, 3725, math.nan)] == ["0:00", "1:05", "1:02:05", "-"]


@pytest.mark.parametrize("event", [STARTED, STEP, EPOCH, FINISHED, {"seconds_left": math.inf, "event": "step"}])
def test_an_event_is_the_same_at_the_other_end_of_the_wire(event):
    out = io.StringIO()
    Wire(out).show(event)
    (line,) = out.getvalue().splitlines()
    arrived = sent_event(line)
    assert PlainLines().text(arrived) == PlainLines().text(event)
    assert JsonLines().text(arrived) == JsonLines().text({"event": event["event"], **event})


@pytest.mark.parametrize("line", ["", "Traceback", '{"a": 1}', '{"event": "step"', "2026 INFO {'event': 1}"])
def test_other_lines_are_no_events(line):
    assert sent_event(line) is None
