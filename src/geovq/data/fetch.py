"""Fetching public data sets: torchvision's mirrors, then Debian's package of Fashion-MNIST.

Files are fetched into a hidden folder beside their final one and renamed, under a lock: a killed run
leaves nothing half-written and parallel jobs fetch once. A machine without a network learns so in
seconds, since mirrors are first tried for a connection within a deadline.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from geovq.errors import DataError

CONNECT_SECONDS = 5.0
STALL_SECONDS = 20.0
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"
DEBIAN_UPDATE_SECONDS, DEBIAN_DOWNLOAD_SECONDS = 120, 600
CIFAR_FOLDER = "cifar-10-batches-py"

log = logging.getLogger(__name__)


class FetchFailed(Exception):  # noqa: N818  (a way that did not work, not yet an error for a person)
    """One way of fetching did not work; the message says why in a few words."""


def fetch_idx_files(folder: str, root: Path, names: Sequence[str]) -> None:
    """Bring the four raw IDX files ``names`` to ``<root>/<folder>/raw``.

    ``folder`` is torchvision's class name, MNIST or FashionMNIST. Files already there are kept. Raises
    one ``DataError`` that names the files, where to put them and what was tried.
    """
    target = root / folder / "raw"

    def complete() -> bool:
        return all((target / name).is_file() or (target / f"{name}.gz").is_file() for name in names)

    ways: dict[str, Callable[[Path], Path]] = {"torchvision's mirrors": lambda staging: _mirrors(folder, staging)}
    if folder == "FashionMNIST":
        ways[f"Debian's package {DEBIAN_PACKAGE}"] = _debian_package
    with _staging(root, folder) as staging:
        if complete():
            return
        found = _first_way(ways, staging, missing=f"{', '.join(names)} (or .gz)", target=target)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (target / name).is_file():
                os.replace(_plain(found / name), target / name)


def fetch_cifar10(root: Path) -> None:
    """Bring torchvision's ``cifar-10-batches-py`` to ``root``; raises as ``fetch_idx_files``."""
    target = root / CIFAR_FOLDER
    with _staging(root, "cifar10") as staging:
        if target.is_dir():
            return
        ways = {"torchvision's mirror": lambda staging: _mirrors("CIFAR10", staging)}
        wanted = f"{CIFAR_FOLDER}/, cifar10_png.zip or cifar10_png/ (train/<class>/<name>.png, test/...)"
        found = _first_way(ways, staging, missing=wanted, target=root)
        os.replace(found, target)


@contextlib.contextmanager
def _staging(root: Path, name: str) -> Iterator[Path]:
    """A new folder under ``root``, held under a lock and removed at the end."""
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"data.root={root}: {name} is missing there and the folder cannot be written ({error}); "
            f"choose another with data.root= or GEOVQ_DATA"
        ) from error


def _first_way(ways: dict[str, Callable[[Path], Path]], staging: Path, missing: str, target: Path) -> Path:
    """Folder that the first working way filled; raises ``DataError`` telling all that failed."""
    failures = []
    for way, fetch in ways.items():
        log.info("fetching %s from %s", target, way)
        try:
            return fetch(staging)
        except FetchFailed as failure:
            failures.append(f"{way} ({failure})")
    raise DataError(
        f"missing {missing}: put the files into {target}, or name another folder by data.root= or "
        f"GEOVQ_DATA; tried {'; '.join(failures)}"
    )


def _mirrors(dataset: str, staging: Path) -> Path:
    """Let torchvision's class ``dataset`` download into ``staging``, its md5 sums checked by itself."""
    import torchvision.datasets

    image_set = getattr(torchvision.datasets, dataset)
    addresses = [image_set.url] if dataset == "CIFAR10" else image_set.mirrors
    if not any(_reachable(address) for address in addresses):
        raise FetchFailed("no connection")
    # torchvision gives no timeout and always draws its bars: bound the first, keep quiet without a terminal.
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        with quiet, contextlib.redirect_stdout(io.StringIO()):
            image_set(staging, download=True)
    except (RuntimeError, OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        raise FetchFailed(" ".join(str(error).split())[:300]) from error
    finally:
        socket.setdefaulttimeout(before)
    return staging / (CIFAR_FOLDER if dataset == "CIFAR10" else f"{dataset}/raw")


def _reachable(address: str) -> bool:
    """Whether the host of ``address`` is found and answers within ``CONNECT_SECONDS``."""
    if urllib.request.getproxies():
        return True  # names are then resolved by the proxy, not here
    parts = urllib.parse.urlsplit(address)
    opened = threading.Event()

    def connect() -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname, port), CONNECT_SECONDS):
            opened.set()

    # A thread, since the system's name look-up takes no timeout; daemon, so that it never delays the exit.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    return opened.is_set()


def _debian_package(staging: Path) -> Path:
    """Download and unpack Debian's package; private package lists where needed, so never as root."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise FetchFailed("no apt-get on this machine")
    lists, cache = staging / "lists", staging / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    bounds = ["-o", "Acquire::Retries=0", "-o", f"Acquire::http::Timeout={CONNECT_SECONDS:.0f}"]
    private = [*bounds, "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"]
    download = ["download", DEBIAN_PACKAGE]
    try:
        _run(["apt-get", *bounds, *download], staging, DEBIAN_DOWNLOAD_SECONDS)
    except FetchFailed:  # the machine's own lists are absent or old
        _run(["apt-get", *private, "update"], staging, DEBIAN_UPDATE_SECONDS)
        if not any(lists.glob("*_Packages*")):  # apt-get calls an update from no server a success
            raise FetchFailed("no connection to the package servers") from None
        _run(["apt-get", *private, *download], staging, DEBIAN_DOWNLOAD_SECONDS)
    package = next(staging.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    _run(["dpkg", "-x", package.name, "unpacked"], staging, DEBIAN_UPDATE_SECONDS)
    return staging / "unpacked" / DEBIAN_FOLDER


def _run(command: list[str], folder: Path, seconds: float) -> None:
    """Run ``command`` in ``folder``; raise ``FetchFailed`` with its last line where it fails or stalls."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(f"{command[0]} took longer than {seconds:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FetchFailed(f"{command[0]}: {lines[-1]}")


def _plain(file: Path) -> Path:
    """``file`` itself, or unpacked beside its ``.gz`` twin."""
    if not file.is_file():
        with gzip.open(f"{file}.gz") as packed, file.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    return file
