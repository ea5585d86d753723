#!/usr/bin/env bash
# Fetch a public data set: scripts/download_data.sh {mnist|fashion|cifar10} [ROOT]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python3
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m geovq.data "$@"
