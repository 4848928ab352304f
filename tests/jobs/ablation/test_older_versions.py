"""Pickles of an older glowctl can be read, although its modules have moved."""

import pickle
import subprocess
import sys

import pytest

from jobs.ablation.search import SeededSearch
from jobs.specs.ablation import AblateSpec
from jobs.specs.training import TrainSpec

OLD_NAMES = {SeededSearch: "jobs.search", AblateSpec: "jobs.ablation_spec", TrainSpec: "jobs.specs"}

LOAD = """
import ast, pickle, sys
from jobs.ablation.older_versions import know_moved_modules
know_moved_modules()
for pickled in ast.literal_eval(sys.argv[1]):
    found = pickle.loads(pickled)
    print(found.__module__, found.__name__)
"""


@pytest.mark.slow
def test_a_class_is_found_by_its_former_name():
    pickled = [
        pickle.dumps(kind, protocol=0).replace(kind.__module__.encode(), old.encode())
        for kind, old in OLD_NAMES.items()
    ]
    done = subprocess.run([sys.executable, "-c", LOAD, repr(pickled)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{kind.__module__} {kind.__name__}" for kind in OLD_NAMES]
