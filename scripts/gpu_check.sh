#!/usr/bin/env bash
# Checks all that needs a CUDA device and measures it beside bare torch: at most eight minutes once .venv is there.
#   ./scripts/gpu_check.sh             writes build/gpu_check/gpu_check.json and gpu_check.md
#   ./scripts/gpu_check.sh --parts tests,agreement
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup_env.sh test
exec .venv/bin/python benchmarks/gpu_check.py "$@"
