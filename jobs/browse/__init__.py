"""Looking at the record: the MLflow UI, lists of runs, one run."""
