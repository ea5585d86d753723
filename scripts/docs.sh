#!/usr/bin/env bash
# Builds the site of the documentation into build/site/, which opens without a network, or serves it.
#   ./scripts/docs.sh                      fails at a broken link, anchor, picture, docstring or page of the menu
#   ./scripts/docs.sh serve [--dev-addr 127.0.0.1:8001]     builds anew what changes
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ] && [ "$1" != serve ]; then
  echo "error: $1 is unknown; nothing builds the site, serve shows it" >&2
  exit 1
fi
./scripts/setup_env.sh docs
[ $# -eq 0 ] || exec .venv/bin/zensical "$@"
rm -rf build/site
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
.venv/bin/zensical build --strict --clean 2>&1 | tee "$said" >&2
# The build tells what is wrong with docstrings, and goes on.
if grep -q '^griffe:' "$said"; then exit 1; fi
.venv/bin/python scripts/check_site.py build/site
echo "site: build/site/index.html" >&2
