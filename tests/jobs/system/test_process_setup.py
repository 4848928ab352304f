import subprocess
import sys


def thresholds(code: str) -> str:
    code = f"import gc; before = gc.get_threshold(); {code}; print(gc.get_threshold() == before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_jobs_changes_nothing_in_the_process():
    assert thresholds("import glowctl.commands.app, glowctl.dispatch, glowctl.tracking") == "True"
