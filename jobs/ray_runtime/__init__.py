"""The Ray that a job runs on: the connection, the resources of a worker, the queue of events."""
