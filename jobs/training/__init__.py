"""A training: prepared without Ray, run on Ray Train, recorded in MLflow."""
