#!/usr/bin/env bash
# Sets up .venv with the test extra, checks style and types, and runs the quick tests.
#   ./scripts/test.sh                 quick: under five minutes on two cores
#   ./scripts/test.sh -m slow         the long ones; any pytest arguments are passed on
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup_env.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
[ $# -gt 0 ] || set -- -m "not slow and not gpu and not network and not browser"
# Two processes with one thread each are faster than one with two, and never fight over the cores. In their order, files whose
# tests wait for other processes do not all come last.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"
