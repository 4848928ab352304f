"""What all tests share: an environment of their own, and one Ray for those that need one in this process."""

import os

# Before torch, ray or mlflow is imported anywhere; the commands that tests start inherit it. The models of tests are so
# small that a second thread only costs time. Workers of a job set the number of their threads themselves.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    MLFLOW_DISABLE_TELEMETRY="true",
)
