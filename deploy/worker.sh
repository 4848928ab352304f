#!/usr/bin/env bash
# Joins this machine to the cluster whose head is at $RAY_HEAD_IP. Arguments are passed on to `ray start`.
set -euo pipefail

fail() {
  echo "$1" >&2
  exit 1
}

[[ -n "${RAY_HEAD_IP:-}" ]] || fail "RAY_HEAD_IP is not set: set it to the address of the cluster's head"
[[ -s ~/.ray/auth_token ]] || fail "there is no ~/.ray/auth_token here: copy the one of the head"
chmod 600 ~/.ray/auth_token
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

unset OMP_NUM_THREADS # `ray up` sets it to 1, and jobs would inherit that
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

# Where the machine's name resolves to 127.0.1.1, as on Ubuntu, gloo would give that address to the other machines.
dev=$(ip -o route get "$RAY_HEAD_IP" 2>/dev/null | grep -o 'dev [^ ]*' | cut -d' ' -f2) || true
[[ -z "$dev" ]] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$dev}"

ray stop
exec ray start --address "$RAY_HEAD_IP:6379" "$@"
