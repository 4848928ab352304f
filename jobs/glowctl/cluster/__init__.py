"""Ray clusters: the client of the Jobs API, the checks before a job, and the program that runs on the cluster."""
