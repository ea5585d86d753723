#!/usr/bin/env bash
# Trains the autoencoder alone and encodes the images; arguments go to src/train.py.
#   ./scripts/train_vae.sh data=fashion vae=spatial_7x7
set -euo pipefail
exec "$(dirname "$0")/run.sh" 'stages=[vae,latents]' "$@"
