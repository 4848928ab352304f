"""The setup of the worker processes of an embedded Ray, each of which imports this module when it starts."""

from jobs.system.process_setup import set_up_process

__all__: list[str] = []

set_up_process()
