"""`glowctl doctor` reads the data sets on this machine, and reports what would stop a training."""

import io

import numpy as np
import pytest
from rich.console import Console

from jobs.commands.doctor import examine
from tests.glow.test_data import write_idx


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [(2, [0, 10], "0 to 9"), (0, [], "no images"), (2, [0, 9], "partial: train only")],
)
def test_doctor_looks_into_mnist(tmp_path, images, labels, said):
    write_idx(tmp_path, np.zeros((images, 28, 28), np.uint8), np.array(labels, np.uint8))
    out = io.StringIO()
    fine = examine(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), Console(file=out, width=300))
    [line] = [line for line in out.getvalue().splitlines() if line.split()[1] == "mnist"]
    assert said in line
    assert fine == line.startswith("note")
    assert ("leave out --no-download" in line) == (not fine)
