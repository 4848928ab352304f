"""Sets up each worker process of an embedded Ray, which imports this module when the process starts."""

from jobs.system.process_setup import set_up_process

__all__: list[str] = []

set_up_process()
