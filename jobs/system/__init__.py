"""This machine and its processes: environment, signals, child processes, metrics."""
