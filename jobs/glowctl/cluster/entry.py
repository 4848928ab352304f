"""The program of the Ray jobs that ``glowctl --address`` submits: it carries out the request in ``request.json``.

Events go to standard output, one JSON object per line; the client shows them as if they came from its own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from glowctl.dispatch import perform
from glowctl.display.displays import Wire
from glowctl.display.events import Failed
from glowctl.errors import explained
from glowctl.specs.request import Request
from glowctl.system.process_setup import set_up_process
from glowctl.system.scratch import scratch_folder
from glowctl.system.signals import exit_code_of

REQUEST_FILE = "request.json"
"""File with the request in the job's working folder."""


def main() -> int:
    """Carry out the request, and return the exit code."""
    set_up_process()
    request = Request.model_validate_json(Path(REQUEST_FILE).read_text())
    try:
        with scratch_folder():
            perform(request, Wire())
    except KeyboardInterrupt as interrupt:
        return exit_code_of(interrupt)
    except Exception as error:
        shown = explained(error)
        print(f"glowctl: {shown}", file=sys.stderr, flush=True)
        Wire().show(Failed.by(shown))
        return shown.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
