"""Ray as a job uses it: the connection, the resources of each worker, and the queue from workers to the driver."""
