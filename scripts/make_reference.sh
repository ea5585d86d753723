#!/usr/bin/env bash
# Writes docs/reference/ from the declarations of settings and scores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python3
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
mkdir -p docs/reference
PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
for page in configuration metrics; do
    "$python" scripts/reference_pages.py "$page" > "docs/reference/$page.md"
done
