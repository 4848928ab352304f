#!/usr/bin/env bash
# Starts the head of a cluster: the MLflow server, then Ray. Arguments are passed on to `ray start`.
#
#   GLOW_STORAGE   place of checkpoints, results and MLflow's artifacts: s3://BUCKET/FOLDER, or a folder all nodes share
#   GLOW_DATABASE  MLflow's database; without it, a SQLite file in ~/glow
#   GLOW_IDLE_DOWN time such as 4h without a job after which this machine copies the SQLite file to GLOW_STORAGE and
#                  ends itself; without it, never
#   GLOW_SHUTDOWN  the command that ends this machine; without it, sudo shutdown -h now
#
# MLflow keeps running when Ray is restarted. To end it, or to change its settings: kill -- -"$(cat ~/glow/mlflow.pid)"
set -euo pipefail

fail() {
  echo "$1" >&2
  exit 1
}

mlflow_answers() {
  curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null http://127.0.0.1:5000/health
}

# Starts MLflow whenever no server answers. Clients send artifacts to the server, so they need no rights on the bucket.
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
  "" | *YOUR-BUCKET*) fail "GLOW_STORAGE is not set: give it a folder that all nodes share, or s3://BUCKET/FOLDER" ;;
  *://*) ;;
  *)
    [[ $GLOW_STORAGE == /* && -d $GLOW_STORAGE ]] ||
      fail "GLOW_STORAGE $GLOW_STORAGE is not the absolute path of a folder here: correct it"
    ;;
esac
[[ -s ~/.ray/auth_token ]] ||
  fail "there is no ~/.ray/auth_token here: make one on your machine by \`ray get-auth-token --generate\` and copy it"
chmod 600 ~/.ray/auth_token
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

export GLOW_STORAGE RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
export RAY_JOB_STOP_WAIT_TIME_S=60 # for a stopped job to record its end; Ray kills it after 3 s otherwise
unset OMP_NUM_THREADS # `ray up` sets it to 1, and jobs would inherit that

[[ -n "${GLOW_DATABASE:-}" ]] || python -m glowctl.cluster.idle restore

# MLflow gets a separate session, and runs once per machine: the process that holds the lock keeps it until it ends.
# The database is passed in the environment, because its URL may contain a password.
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

# Where the machine's name resolves to 127.0.1.1, as on Ubuntu, gloo would give that address to the other machines.
dev=$(ip -o route get "8.8.8.8" 2>/dev/null | grep -o 'dev [^ ]*' | cut -d' ' -f2) || true
[[ -z "$dev" ]] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$dev}"

# Ray gives up a host that is cut off after about 8 s, and keeps one that is frozen for 6 s.
health='{"health_check_initial_delay_ms": 5000, "health_check_period_ms": 1000,
         "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}'
autoscaling=()
if [[ -e ~/ray_bootstrap_config.yaml ]]; then # from `ray up`
  autoscaling=(--autoscaling-config ~/ray_bootstrap_config.yaml)
fi
[[ ! -e ~/glow/idle.pid ]] || kill "$(cat ~/glow/idle.pid)" 2>/dev/null || true
rm -f ~/glow/idle.pid
if [[ -n "${GLOW_IDLE_DOWN:-}" ]]; then
  export GLOW_IDLE_DOWN
  setsid python -m glowctl.cluster.idle </dev/null >>~/glow/idle.log 2>&1 &
fi
exec ray start --head --port 6379 --dashboard-host 127.0.0.1 --system-config "$health" "${autoscaling[@]}" "$@"
