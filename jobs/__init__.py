"""Jobs that run on Ray and write to MLflow, and `glowctl`, their command line (`jobs.commands.app`)."""
