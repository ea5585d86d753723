#!/usr/bin/env bash
# Writes docs/reference/ from the declarations of settings and scores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python3
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
mkdir -p docs/reference
PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
"$python" -m geovq.configuration.reference > docs/reference/configuration.md
"$python" -m geovq.evaluation.reference > docs/reference/metrics.md
