#!/usr/bin/env bash
# Starts the head of a cluster: the MLflow server, then Ray. What it is called with goes to `ray start`.
#
#   GLOW_STORAGE   where checkpoints, results and MLflow's artifacts go: s3://BUCKET/FOLDER, or a folder all nodes share
#   GLOW_DATABASE  MLflow's database; a SQLite file in ~/glow if not given
#
# MLflow runs on when Ray is started again. To end it, or to give it other settings: kill -- -"$(cat ~/glow/mlflow.pid)"
set -euo pipefail

fail() {
  echo "$1" >&2
  exit 1
}

mlflow_answers() {
  curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null http://127.0.0.1:5000/health
}

# Starts MLflow whenever none answers. Clients send artifacts to it, so that they need no rights on the bucket.
keep_mlflow() {
  echo "$PPID" >~/glow/mlflow.pid
  while true; do
    mlflow_answers ||
      mlflow server --host 127.0.0.1 --port 5000 --workers 1 --allowed-hosts 'localhost:*,127.0.0.1:*' \
        --serve-artifacts --artifacts-destination "${GLOW_STORAGE%/}/mlflow" || true
    sleep 5
  done
}

case "${GLOW_STORAGE:-}" in
  "" | *YOUR-BUCKET*) fail "GLOW_STORAGE is not set: give a folder that all nodes share, or s3://BUCKET/FOLDER" ;;
  *://*) ;;
  *) [[ $GLOW_STORAGE == /* && -d $GLOW_STORAGE ]] || fail "GLOW_STORAGE: there is no folder $GLOW_STORAGE here" ;;
esac
[[ -s ~/.ray/auth_token ]] ||
  fail "there is no ~/.ray/auth_token here: make one on your machine by \`ray get-auth-token --generate\` and copy it"
chmod 600 ~/.ray/auth_token
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

export GLOW_STORAGE RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
unset OMP_NUM_THREADS # `ray up` sets it to 1, and jobs inherit what is set here

# In a session of its own, and once a machine: whoever has the lock keeps it to its end. The database goes by the
# environment, since its URL may hold a password.
mkdir -p ~/glow
MLFLOW_BACKEND_STORE_URI="${GLOW_DATABASE:-sqlite:///$HOME/glow/mlflow.db}" \
  MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
  setsid flock --nonblock ~/glow/mlflow.lock \
  bash -c "$(declare -f mlflow_answers keep_mlflow); keep_mlflow" </dev/null >>~/glow/mlflow.log 2>&1 &
unset GLOW_DATABASE

ray stop

for ((seconds = 0; seconds < 90; seconds++)); do
  mlflow_answers && break
  sleep 1
done
if ! mlflow_answers; then
  kill -- -"$(cat ~/glow/mlflow.pid)" || true
  fail "the MLflow server did not start: see ~/glow/mlflow.log"
fi
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000

# Where a machine's own name means 127.0.1.1, as on Ubuntu, gloo would tell the others that address.
dev=$(ip -o route get "8.8.8.8" 2>/dev/null | grep -o 'dev [^ ]*' | cut -d' ' -f2) || true
[[ -z "$dev" ]] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$dev}"

# A host that is cut off is given up after some 8 s; one that stands still for 6 s is kept.
health='{"health_check_initial_delay_ms": 5000, "health_check_period_ms": 1000,
         "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}'
autoscaling=()
if [[ -e ~/ray_bootstrap_config.yaml ]]; then # from `ray up`
  autoscaling=(--autoscaling-config ~/ray_bootstrap_config.yaml)
fi
exec ray start --head --port 6379 --dashboard-host 127.0.0.1 --system-config "$health" "${autoscaling[@]}" "$@"
