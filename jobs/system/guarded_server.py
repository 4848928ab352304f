"""Runs a server that ends with the process that wants it, however that goes: run by `jobs.browse.ui` as a
process of its own.

`python -m jobs.system.guarded_server COMMAND...` runs the command until the end of its standard input, which the
parent holds open and the kernel closes when it dies. Then it ends the command's process group: MLflow's server is two
processes, of which the second would outlive the first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

PATIENCE_S = 3.0


def _end(server: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, PATIENCE_S), (signal.SIGKILL, 0.0)):
        deadline = time.monotonic() + patience
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(server.pid, number)
            while time.monotonic() < deadline:
                server.poll()
                os.killpg(server.pid, 0)
                time.sleep(0.05)


def main(command: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)

    def end_with_parent() -> None:
        while os.read(0, 1):  # sys.stdin would hold a lock that Python needs to end
            pass
        _end(server)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = server.wait()
    _end(server)  # what is left of its group
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) and 1)
