"""What a sweep pays beside its jobs: processor seconds, which do not depend on what else the machine does.

    python benchmarks/launchers.py

A worker of ``launcher=parallel`` or ``ray`` imports once and takes many jobs, ``submitit_local`` imports for each job.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib.util import find_spec

IMPORTS = "import geovq.commands.train, geovq.pipeline.runner, mlflow.tracking, mlflow.store.tracking.sqlalchemy_store"
HYDRA = ("src/train.py", "--cfg", "job")
RAY = """
import ray
ray.init(num_cpus=2, object_store_memory=78643200, include_dashboard=False, logging_level="ERROR", address="local")
ray.get([ray.remote(lambda: 0).remote() for _ in range(2)])
from benchmarks.launchers import of_children
print(of_children())
"""


def seconds(*arguments: str) -> float:
    """Processor seconds of a Python process and of the children that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_children() -> float:
    """Processor seconds of this process and of all that live below it."""
    found: dict[int, tuple[int, float]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(process)] = (int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))

    def total(process: int) -> float:
        return found[process][1] + sum(total(child) for child, (parent, _) in found.items() if parent == process)

    return total(os.getpid())


def main() -> None:
    print(f"composing a configuration: {seconds(*HYDRA):.1f} s")
    print(f"imports of a worker:       {seconds('-c', IMPORTS):.1f} s")
    if find_spec("ray") is not None:
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.getcwd()}
        done = subprocess.run(
            [sys.executable, "-c", RAY], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        print(f"a local ray, two workers:  {float(done.stdout.split()[-1]):.1f} s")


if __name__ == "__main__":
    main()
