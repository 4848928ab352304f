"""The settings of every job as frozen pydantic models, whose fields are the flags of the command line.

Nothing here imports torch, Ray or MLflow, because every command imports it.
"""
