"""Fetching public data sets: torchvision's mirrors, then Debian's package of Fashion-MNIST.

Files are fetched into a hidden folder beside their final one and renamed, under a lock: a killed run
leaves nothing half-written and parallel jobs fetch once. A machine without a network learns so in
seconds, since mirrors are first tried for a connection within a deadline.
"""

from __future__ import annotations

import contextlib
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


def published_files(
    dataset: str, root: Path, folder: Path, names: Sequence[str], download: bool, alternatives: str = ""
) -> list[Path]:
    """The files ``names`` of ``folder``, each plain or with ``.gz``, fetched where missing and ``download`` allows.

    ``dataset`` is torchvision's class name. Files already there are kept. ``alternatives`` to a missing folder of
    the root are told of. Raises one ``DataError`` that names the missing files, where to put them and what was tried.
    """

    def missing() -> list[str]:
        return [name for name in names if not (folder / name).is_file() and not Path(f"{folder / name}.gz").is_file()]

    if absent := missing():
        place, wanted, put = folder, ", ".join(absent), "put them there"
        if alternatives and not folder.exists():
            place, wanted, put = root, f"{folder.name}/{alternatives}", "put one of them there"
        told = f"{place}: missing {wanted}; {put}, name another folder by data.root= or GEOVQ_DATA"
        if not download:
            raise DataError(f"{told}, or set data.download=true")
        with _staging(root, dataset) as staging:
            if absent := missing():
                found = _first_way(dataset, staging, told)
                folder.mkdir(parents=True, exist_ok=True)
                for name in absent:
                    if not (found / name).is_file():
                        from torchvision.datasets.utils import extract_archive

                        extract_archive(f"{found / name}.gz", found)
                    os.replace(found / name, folder / name)
    return [file if (file := folder / name).is_file() else Path(f"{file}.gz") for name in names]


@contextlib.contextmanager
def _staging(root: Path, name: str) -> Iterator[Path]:
    """A new folder under ``root``, held under a lock and removed at the end."""
    from geovq.locks import lock_at

    try:
        root.mkdir(parents=True, exist_ok=True)
        with lock_at(root / f".{name}.lock"):
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


def _first_way(dataset: str, staging: Path, missing: str) -> Path:
    """Folder that the first working way filled; raises ``DataError`` telling all that failed after ``missing``."""
    ways: dict[str, Callable[[], Path]] = {"torchvision's mirrors": lambda: _mirrors(dataset, staging)}
    if dataset == "FashionMNIST":
        ways[f"Debian's package {DEBIAN_PACKAGE}"] = lambda: _debian_package(staging)
    failures = []
    for way, fetch in ways.items():
        log.info("fetching %s from %s", dataset, way)
        try:
            return fetch()
        except FetchFailed as failure:
            failures.append(f"{way} ({failure})")
    raise DataError(f"{missing}; tried {'; '.join(failures)}")


def _mirrors(dataset: str, staging: Path) -> Path:
    """Let torchvision's class ``dataset`` download into ``staging``, its md5 sums checked by itself."""
    import torchvision.datasets

    image_set = getattr(torchvision.datasets, dataset)
    if not any(_reachable(address) for address in getattr(image_set, "mirrors", None) or [image_set.url]):
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
