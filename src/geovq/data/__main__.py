"""``python -m geovq.data NAME [ROOT]``: fetch a public data set where it is missing and say what is there."""

from __future__ import annotations

import argparse
import os
import sys

from geovq.data import open_source, source_names
from geovq.errors import GeoVQError


def main(arguments: list[str] | None = None) -> int:
    """Fetch, read and describe one data set; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m geovq.data", description=__doc__)
    parser.add_argument("name", choices=[name for name in source_names() if name not in ("folder", "huggingface")])
    parser.add_argument("root", nargs="?", default=os.environ.get("GEOVQ_DATA", "data"), help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    try:
        source = open_source(chosen.name, chosen.root)
        info = source.info()
    except GeoVQError as error:
        if os.environ.get("GEOVQ_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    shape = "x".join(str(side) for side in info.image_shape)
    counts = f"{info.n_train:,} training and {info.n_test:,} test images of {shape}"
    print(f"{info.name}: {counts} in {source.location}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
