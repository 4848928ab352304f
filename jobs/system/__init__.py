"""The machine of this process: environment, signals, helper processes, temporary files, memory and load."""
