"""The frozen settings of every job. Nothing here imports torch, ray or mlflow."""
