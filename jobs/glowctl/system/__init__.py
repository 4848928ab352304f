"""This process and its machine: environment, signals, helper processes, temporary files, memory and load."""
