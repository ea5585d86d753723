#!/usr/bin/env bash
# Makes .venv with what the project needs; quick when it is already there.
#   ./scripts/setup_env.sh [EXTRA…]      EXTRA: test, docs, bench, codecs
# A PyTorch that is already in .venv (a CPU or ROCm build from PyTorch's own index) is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $("$python" --version) is too old; Python 3.11 or newer is needed (set PYTHON=/path/to/python3.11)" >&2
  exit 1
}
extras="$(IFS=,; echo "$*")"
wanted="$(cat requirements.txt pyproject.toml scripts/setup_env.sh <("$python" --version) | sha256sum)"
# An environment with an extra serves those who want none.
pattern="${extras:-*}"
for stamp in .venv/.geovq-$pattern; do
  if [ -f "$stamp" ] && [ "$wanted" = "$(cat "$stamp")" ]; then exit 0; fi
done

[ -x .venv/bin/python ] || "$python" -m venv .venv || {
  echo "error: this Python cannot make environments; on Debian: apt-get install python3-venv" >&2
  exit 1
}
export PIP_DISABLE_PIP_VERSION_CHECK=1
requirements="$(mktemp)"
trap 'rm -f "$requirements"' EXIT
if .venv/bin/python -c 'import torch, torchvision' 2>/dev/null; then
  grep -vE '^torch(vision)?==' requirements.txt >"$requirements"
else
  cp requirements.txt "$requirements"
fi
echo "installing into .venv (7 GB with PyTorch, about three minutes)" >&2
.venv/bin/pip install --quiet -r "$requirements"
.venv/bin/pip install --quiet --editable ".${extras:+[$extras]}"
# Compiled once, here: the first run would otherwise wait for that.
echo "compiling kernels (half a minute)" >&2
scratch="$(mktemp -d)"
trap 'rm -rf "$requirements" "$scratch"' EXIT
tiny=(data=digits vae.steps=2 vae.width=8 quantizer.K=16 'stages=[codes]' tracking=none trainer.device=cpu)
.venv/bin/python src/train.py "${tiny[@]}" paths.root="$scratch" >"$scratch/said" 2>&1 || cat "$scratch/said" >&2
echo "$wanted" >".venv/.geovq-${extras:-base}"
