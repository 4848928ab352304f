"""The entry point of a Ray job that `glowctl --address` submits: does the request in `request.json` beside it.

Events go to standard output as one JSON object a line, which the client shows as if they were its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.dispatch import perform
from jobs.display.displays import Wire
from jobs.errors import INTERRUPTED, TERMINATED, code_of, sentence_of
from jobs.specs.request import Request
from jobs.system.process_setup import set_up_process
from jobs.system.scratch import scratch_folder
from jobs.system.signals import Terminated

__all__ = ["REQUEST_FILE", "main"]

REQUEST_FILE = "request.json"


def main() -> int:
    set_up_process()
    request = Request.model_validate_json(Path(REQUEST_FILE).read_text())
    try:
        with scratch_folder():
            perform(request, Wire())
    except KeyboardInterrupt as interrupt:
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    except Exception as error:
        print(f"glowctl: {sentence_of(error)}", file=sys.stderr, flush=True)
        return code_of(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
