#!/usr/bin/env bash
# All benches beside their peers on a CPU: one pinned core by CPU time, then two cores by wall time.
#   experiments/bench/run.sh [BENCH ...]      as `rounds` or `update/all`; all of them by default
# PYTHON has cdjax; PEERS holds the environments that peers.sh makes. Results are added to as they come.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
PEERS=${PEERS:-.venv-peers}
commit=$(git rev-parse --short HEAD)
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 # large pages, for both sides
known=()
for name in trl tunix easydel; do
  [ -x "$PEERS/$name/bin/python" ] && known+=(--peer-python "$PEERS/$name/bin/python")
done

measure() { # cores, clock, the rest
  local results="experiments/bench/results/cpu-${3}-$commit.jsonl"
  JAX_PLATFORMS=cpu taskset -c "$1" "$PYTHON" -m cdjax.cli bench "${@:4}" --json --clock "$2" \
    --repeat "${REPEAT:-5}" --seconds "${SECONDS_EACH:-30}" "${known[@]}" | tee -a "$results" | "$PYTHON" experiments/bench/table.py
}

measure 0 cpu one-core "$@"
measure 0,1 wall two-cores "$@"
