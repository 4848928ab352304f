"""The jobs that evaluate a trained model: `nll`, `sample`, `interpolate`, `ood` and `check`.

Each has a module with `prepare` (checks the settings, finds model and data) and `run` (computes and records). What they
share is in `find_model`, `scoring` and `run`.
"""
