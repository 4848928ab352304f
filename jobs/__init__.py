"""What runs on Ray and writes to MLflow: one file a job, and the command line over them."""
