"""A dry run of an ablation imports neither Ray nor torch, and writes nothing. A plan without room says what helps."""

import subprocess
import sys

import pytest

from glowctl.ablation import plan
from glowctl.errors import JobError
from glowctl.specs.ablation import make_ablate_spec
from tests.jobs.command_line import environment

DRY_RUN = """
import sys
from glowctl.commands.app import main
sys.argv = ["glowctl", "ablate", "--preset", "smoke", "--permutations", "all", "--seeds", "2", "--dry-run", "--json"]
try:
    main()
finally:
    print({"ray", "torch", "mlflow", "sklearn"} & set(sys.modules), file=sys.stderr)
"""


def test_a_dry_run_on_this_machine_is_arithmetic(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUN], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"trials": 6' in done.stdout
    assert done.stderr.splitlines()[-1] == "set()"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("taken", "run_id", "helps", "is_refused"),
    [
        (None, None, ["--cpus-per-trial"], []),
        ({"cpus_per_worker": 8.0, "gpus_per_worker": 0.0}, "1234", ["machines", "ablate --summarize 1234"], ["--cpus"]),
        ({"cpus_per_worker": 8.0, "gpus_per_worker": 0.0}, None, ["machines"], ["--cpus", "--summarize"]),
    ],
    ids=["new", "resumed", "resumed without its run in MLflow"],
)
def test_what_helps_if_a_trial_needs_more_than_there_is(monkeypatch, taken, run_id, helps, is_refused):
    """A resumed ablation refuses other resources, so the advice cannot be to change them."""
    monkeypatch.setattr("glowctl.ray_runtime.resources.machines_up", lambda: [{"CPU": 2.0}])
    spec = make_ablate_spec("smoke", {"cpus_per_trial": 8})
    with pytest.raises(JobError) as error:
        plan(spec, taken, run_id)
    assert error.value.code == "not-enough-resources"
    assert all(fact in error.value.remedy for fact in helps)
    assert not any(flag in error.value.remedy for flag in is_refused)
