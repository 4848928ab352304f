import pickle
import subprocess
import sys

import pytest

from jobs.ablation.search import SeededSearch
from jobs.specs.ablation import AblateSpec
from jobs.specs.training import TrainSpec

OLD_NAMES = {SeededSearch: "jobs.search", AblateSpec: "jobs.ablation_spec", TrainSpec: "jobs.specs"}


@pytest.mark.parametrize("kind", OLD_NAMES)
def test_a_class_is_found_by_the_name_that_it_had(kind):
    pickled = pickle.dumps(kind, protocol=0).replace(kind.__module__.encode(), OLD_NAMES[kind].encode())
    code = (
        "import pickle, sys; from jobs.ablation.older_versions import know_moved_modules; know_moved_modules(); "
        f"found = pickle.loads({pickled!r}); print(found.__module__, found.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [kind.__module__, kind.__name__]
