"""Where the weights of an autoencoder lie that someone else has trained, and what is known of them before any compute.

A folder is one that ``save_pretrained`` of diffusers wrote: ``config.json`` and weights. Weights are read from
safetensors alone; the other formats are pickles, which run code when they are opened.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geovq.errors import first_line

_EXTRA = "pip install -e .[pretrained]"


def model_folder(path: str, download: bool) -> Path:
    """The folder that ``vae.path`` means; with ``download`` that of a name on huggingface.co, ``owner/model[/folder]``.

    Raises:
        ValueError: there is none, or it cannot be fetched.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"vae.path={path}: a file; give the folder that save_pretrained of diffusers wrote")
    if not download:
        raise ValueError(
            f"vae.path={path}: no such folder; give one that save_pretrained of diffusers wrote, or vae.download=true "
            "for a name on huggingface.co"
        )
    return _fetched(path)


def _fetched(name: str) -> Path:
    """The folder of a model on huggingface.co, in the cache of its library."""
    check_extra(f"vae.path={name}")
    fetch = import_module("huggingface_hub").snapshot_download
    owner, _, rest = name.partition("/")
    model, _, inner = rest.partition("/")
    wanted = [f"{inner}/{file}" if inner else file for file in ("config.json", "model_index.json", "*.safetensors*")]
    try:
        return Path(fetch(f"{owner}/{model}", allow_patterns=wanted), inner)
    except Exception as error:  # of the network, the server, the cache or the name
        reason = first_line(error).rstrip(".")
        raise ValueError(
            f"vae.path={name}: cannot be fetched from huggingface.co ({reason}); give a folder on this machine"
        ) from None


def check_extra(needed_by: str) -> None:
    """Refuse to go on without diffusers.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec("diffusers") is None:
        raise ValueError(f"{needed_by}: needs diffusers, which is not installed: {_EXTRA}")


def read_architecture(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a model says: its class under ``_class_name``, and the arguments of its constructor.

    Raises:
        ValueError: it is not there or no such file, or the folder is that of a whole pipeline.
    """
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "model_index.json").is_file():
            inner = next((f"{folder}/{name}" for name in ("vae", "vqvae", "vqgan") if (folder / name).is_dir()), None)
            raise ValueError(f"vae.path={folder}: a whole pipeline; give the folder of its autoencoder, {inner or ''}")
        raise ValueError(
            f"vae.path={folder}: no model, for there is no config.json; give a folder that save_pretrained of "
            "diffusers wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"vae.path={folder}: config.json cannot be read ({error}); save the model again") from None
    if not isinstance(values, dict) or not isinstance(values.get("_class_name"), str):
        raise ValueError(f"vae.path={folder}: config.json names no class; give a model that diffusers saved")
    # The others say where and by which version it was saved.
    return {key: value for key, value in values.items() if key == "_class_name" or not key.startswith("_")}


def weight_files(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant of a model's weights, such as ``fp16`` where there are no others, and their files.

    Raises:
        ValueError: there are none in safetensors, or one is cut short.
    """
    stem = "diffusion_pytorch_model"
    whole, parts = (sorted(folder.glob(f"{stem}{end}")) for end in (".safetensors", "-*-of-*.safetensors"))
    variants = sorted(folder.glob(f"{stem}.*.safetensors"))[:1]
    if files := whole or parts or variants:
        for file in files:
            if fault := _fault(file):
                raise ValueError(f"vae.path={folder}: {file.name} cannot be read ({fault}); save the model again")
        return (files[0].name.split(".")[1] if files is variants else None), files
    others = sorted(path.name for end in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(end))
    found = f"weights in {others[0]} alone, a pickle, which could run code" if others else "no weights"
    raise ValueError(
        f"vae.path={folder}: {found}; save the model again with save_pretrained, which writes {stem}.safetensors"
    )


def check_checkpoint(path: str) -> None:
    """Refuse a file of weights that cannot be read.

    Raises:
        ValueError: it is not there, or no safetensors.
    """
    if not Path(path).is_file():
        raise ValueError(f"vae.checkpoint={path}: no such file; give weights in safetensors")
    if fault := _fault(Path(path)):
        kind = "a pickle, which could run code" if path.endswith((".pt", ".pth", ".bin", ".ckpt")) else fault
        raise ValueError(f"vae.checkpoint={path}: no safetensors ({kind}); write it with safetensors.torch.save_file")


def _fault(path: Path) -> str | None:
    """What is wrong with a file as safetensors, by its header and its size; None where nothing is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError as error:
        return first_line(error)


def weights_digest(files: list[Path]) -> str:
    """Hash of some files' content, in order."""
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    found = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
