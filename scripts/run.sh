#!/usr/bin/env bash
# Sets up .venv and runs the whole pipeline; arguments go to src/train.py.
#   ./scripts/run.sh                                          the bundled digits, no network needed
#   ./scripts/run.sh data=fashion quantizer=geodesic
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup_env.sh
exec .venv/bin/python src/train.py "$@"
