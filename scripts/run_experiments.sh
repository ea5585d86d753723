#!/usr/bin/env bash
# Runs the experiments of configs/experiment one after the other; finished stages are never built twice.
#   ./scripts/run_experiments.sh                      all of them: many hours on two cores
#   ./scripts/run_experiments.sh euclidean_k512 …     some
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup_env.sh
if [ $# -eq 0 ]; then
  for file in configs/experiment/*.yaml; do set -- "$@" "$(basename "$file" .yaml)"; done
fi
for experiment in "$@"; do
  echo "== $experiment" >&2
  # Those that list values to sweep over are multiruns.
  multirun=$(grep -q "sweeper:" "configs/experiment/$experiment.yaml" && echo "-m" || true)
  .venv/bin/python src/train.py $multirun "experiment=$experiment"
done
