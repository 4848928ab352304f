"""Training jobs: checked without Ray, run by Ray Train, recorded in MLflow."""
