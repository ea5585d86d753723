#!/usr/bin/env bash
# Runs the experiments of configs/experiment one after the other; finished stages are never built twice.
#   ./scripts/run_experiments.sh                      all of them
#   ./scripts/run_experiments.sh euclidean_k512 …     some
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup_env.sh
if [ $# -eq 0 ]; then
  for file in configs/experiment/*.yaml; do set -- "$@" "$(basename "$file" .yaml)"; done
fi
for experiment in "$@"; do
  echo "== $experiment" >&2
  .venv/bin/python src/train.py "experiment=$experiment"
done
