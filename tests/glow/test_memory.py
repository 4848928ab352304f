import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
from glow.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
import psutil, torch

def freed():
    tensor = torch.ones(50 * 2**20, dtype=torch.uint8)
    held = psutil.Process().memory_info().rss
    del tensor
    print((held - psutil.Process().memory_info().rss) // 2**20)

thread = threading.Thread(target=freed)
thread.start()
thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
@pytest.mark.parametrize(("memory", "least", "most"), [("kept", 0, 5), ("returned", 45, 55)])
def test_freed_memory_is_kept_in_every_thread_once_that_is_asked_for(memory, least, most):
    """The process returns between `least` and `most` MB to the system when a tensor of 50 MB is freed."""
    command = [sys.executable, "-c", PROGRAM, memory]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert least <= int(done.stdout) <= most
