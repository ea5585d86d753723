#!/usr/bin/env bash
# Shows the recorded runs in the browser: ./scripts/mlflow_ui.sh [options of `mlflow server`, say --port 5001]
# The experiments root is experiments/, or what GEOVQ_ROOT names.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mlflow=$repository/.venv/bin/mlflow
root=$(realpath -m "${GEOVQ_ROOT:-$repository/experiments}")
database=$root/mlflow.db

if [[ ! -x $mlflow ]]; then
    echo "mlflow_ui: no .venv here yet; run ./scripts/setup_env.sh first" >&2
    exit 1
fi
if [[ ! -f $database ]]; then
    echo "mlflow_ui: no run is recorded yet ($database does not exist); run python src/train.py first, or set GEOVQ_ROOT" >&2
    exit 1
fi

host=127.0.0.1
port=5000
arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
    case ${arguments[i]} in
        --host=*) host=${arguments[i]#*=} ;;
        --port=*) port=${arguments[i]#*=} ;;
        -h | --host) host=${arguments[i + 1]:-} ;;
        -p | --port) port=${arguments[i + 1]:-} ;;
    esac
done

echo "MLflow shows $database at http://$host:$port (stop with Ctrl-C)"
"$repository/.venv/bin/python" - "$database" "http://$host:$port" <<'PYTHON'
# Links to the experiments of this project: all runs with their measures side by side, as table and as charts.
import sqlite3
import sys
from pathlib import Path

database, address = sys.argv[1:]
query = (
    "SELECT e.experiment_id, e.name FROM experiments e JOIN experiment_tags t ON t.experiment_id = e.experiment_id"
    " WHERE t.key = 'mlflow.sharedViewState.geovq' AND e.lifecycle_stage = 'active'"
)
try:
    rows = sqlite3.connect(f"{Path(database).as_uri()}?mode=ro", uri=True, timeout=60).execute(query).fetchall()
except sqlite3.Error as error:
    if "is locked" in str(error):
        sys.exit(f"mlflow_ui: another process keeps {database} locked (fuser -v shows which); let it end")
    sys.exit(f"mlflow_ui: {database} cannot be read ({error}); move it aside, the next run makes a new one")
for number, name in rows:
    runs = f"{address}/#/experiments/{number}/runs?"
    train = "searchFilter=tags.%60geovq.kind%60%20%3D%20'train'&orderByKey=metrics.%60psnr%60&orderByAsc=false"
    print(f"  {name}, table:  {runs}viewStateShareKey=geovq")
    print(f"  {name}, charts: {runs}{train}&compareRunsMode=CHART", flush=True)
PYTHON

# A path in an address: as geovq.tracking.address spells it.
addresses=$("$repository/.venv/bin/python" -c '
import sys
from pathlib import Path
from urllib.parse import quote
print("sqlite:///" + quote(sys.argv[1], safe=""), Path(sys.argv[2]).as_uri())
' "$database" "$root/mlartifacts")
read -r store artifacts <<<"$addresses"

export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export PYTHONWARNINGS=ignore
exec "$mlflow" server --backend-store-uri "$store" --default-artifact-root "$artifacts" \
    --artifacts-destination "$artifacts" --host "$host" --port "$port" --workers 1 \
    --uvicorn-opts "--log-level warning" "$@"
