"""Everything that touches MLflow: the stores, the runs that are written, and the runs that are found again.

This is the only package that imports `mlflow`. It does so inside functions, because the import takes a second.

The process that drives a job (the driver) writes the job's run to MLflow; workers never write to MLflow. A cluster can
therefore use a store that only the driver's machine can reach, such as a SQLite file, and the death of a worker loses
nothing that the driver has received.
"""
