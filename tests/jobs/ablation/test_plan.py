"""A dry run of an ablation imports neither Ray nor torch, and writes nothing."""

import subprocess
import sys

from tests.jobs.command_line import environment

DRY_RUN = """
import sys
from jobs.commands.app import main
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
