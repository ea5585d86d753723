"""Images that are prepared on the disk: the same as in memory, whatever happens on the way."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from geovq.configuration.checks import check
from geovq.configuration.config import validate
from geovq.configuration.options import Data
from geovq.configuration.parse import parse
from geovq.configuration.renamed import option
from geovq.data import DataInfo, ImageData, open_images, preparing
from geovq.data.preparing import ImageFile
from geovq.data.split import draw_splits
from geovq.errors import ArtifactError, ConfigError, DataError
from geovq.evaluation.image_sets import drawn
from geovq.pipeline import prepared
from geovq.pipeline.large_tensors import filled, room_within
from geovq.pipeline.prepared import load_images, mapped
from geovq.pipeline.stages.classifier import predict
from geovq.pipeline.stages.evaluated_run import EvaluatedRun
from geovq.pipeline.stages.training import CopiedImages

N, SIDE = 60, 12


def picture(number: int) -> bytes:
    """Grey or RGB, 8 or 16 bits, of several sizes, some turned by their Exif orientation."""
    generator = np.random.default_rng(number)
    height, width = 14 + number % 5, 16 + number % 3
    grey = number % 2 == 0
    pixels = generator.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    if number % 6 == 0:
        pixels = pixels.astype(np.uint16) * 257
    exif = PIL.Image.Exif()
    exif[0x0112] = 1 + number % 8
    stream = io.BytesIO()
    form = "PNG" if grey else "JPEG"
    PIL.Image.fromarray(pixels).save(stream, form, **({"exif": exif} if form == "JPEG" else {}))
    return stream.getvalue()


FILES = {f"{'cat' if i % 3 else 'dog'}/{i:03}.{'png' if i % 2 == 0 else 'jpg'}": picture(i) for i in range(N)}


def write_folder(root: Path) -> Path:
    for name, content in FILES.items():
        (root / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "tree" / name).write_bytes(content)
    return root / "tree"


def write_zip(root: Path) -> Path:
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return root / "images.zip"


def arrays(root: Path, compressed: bool = False, **more: np.ndarray) -> Path:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (N, SIDE, SIDE + 2, 3), np.uint8)
    save = np.savez_compressed if compressed else np.savez
    save(root / "images.npz", images=images, labels=np.arange(N) % 4, **more)
    return root / "images.npz"


def settings(path: Path, **changes: Any) -> Data:
    values = option("data", "folder") | {"path": str(path), "root": str(path), "image_size": SIDE, "channels": 3}
    return parse(Data, values | {"validation": 0.2} | changes, "data")


def loaded(data: Data, root: Path, processes: int = 1) -> ImageData:
    source = open_images(data)
    return load_images(data, source, source.info(), root, processes)


def assert_same(first: ImageData, second: ImageData) -> None:
    for name, part in first.splits.items():
        other = second.splits[name]
        assert torch.equal(part.images, other.images)
        assert part.labels is None or torch.equal(part.labels, other.labels)
        assert torch.equal(getattr(first, f"{name}_indices"), getattr(second, f"{name}_indices"))


SMALL = {"memory_gb": 1e-6}


@pytest.mark.parametrize("limit", [None, 25])
@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (write_folder, {}),
        (write_zip, {"channels": 1}),
        (arrays, {}),
        (lambda root: arrays(root, compressed=True), {"image_size": None, "channels": None, "full_scale": 199}),
    ],
    ids=["folder", "zip", "npz", "compressed npz"],
)
def test_prepared_images_are_those_in_memory(tmp_path, monkeypatch, write, changes, limit) -> None:
    monkeypatch.setattr(preparing, "MOST_PER_BLOCK", 7)
    path = write(tmp_path)
    in_memory = loaded(settings(path, limit=limit, **changes), tmp_path / "root")
    assert not (tmp_path / "root").exists()
    on_disk = loaded(settings(path, limit=limit, **changes, **SMALL), tmp_path / "root")
    assert_same(in_memory, on_disk)
    assert on_disk.info == in_memory.info
    if limit is None:
        assert on_disk.remarks == in_memory.remarks
    [artifact] = (tmp_path / "root/artifacts/data").glob("*[0-9a-f]")
    assert {file.name for file in artifact.glob("*.npy")} == {"train.npy", "validation.npy", "test.npy"}


def artifact_of(root: Path) -> Path:
    [artifact] = (path for path in (root / "artifacts/data").iterdir() if path.suffix == "" and path.is_dir())
    return artifact


def damage(path: Path) -> list[str]:
    """Two of the files, one of which is the first of all."""
    names = [sorted(FILES)[0], sorted(FILES)[40]]
    (path / names[0]).write_bytes(FILES[names[0]][:60])
    (path / names[1]).write_bytes(b"no image")
    return names


def test_damaged_files_stop_a_run_with_a_list_or_are_left_out(tmp_path) -> None:
    path, root = write_folder(tmp_path), tmp_path / "root"
    names = damage(path)
    with pytest.raises(DataError, match=r"not a readable image .* remove the file$"):
        loaded(settings(path), root)
    skipping = settings(path, on_error="skip")
    in_memory = loaded(skipping, root)
    with pytest.raises(DataError, match=r"^\S*001\.jpg: not a readable"):
        loaded(settings(path, **SMALL), root)  # the first decides shape: before anything is decoded
    on_disk = loaded(settings(path, on_error="skip", **SMALL), root)
    assert_same(in_memory, on_disk)
    assert sum(map(len, on_disk.splits.values())) == N - 2
    indices = torch.cat([on_disk.train_indices, on_disk.validation_indices])
    labels = torch.cat([on_disk.train.labels, on_disk.validation.labels])
    part = open_images(skipping).parts  # type: ignore[attr-defined]
    assert all(part.train[i].startswith(("cat", "dog")[int(label)]) for i, label in zip(indices, labels, strict=True))
    told = json.loads((artifact_of(root) / "skipped.json").read_text())
    assert sorted(names) == sorted(name for name in names for fault in told if name in fault)
    for data in (in_memory, on_disk):
        [remark] = (line for line in data.remarks if line.startswith("left out 2 files that cannot be read"))
        assert all(name in remark for name in names)


def test_damage_that_decoding_finds_is_listed_and_skipping_goes_on_from_there(tmp_path, monkeypatch) -> None:
    path, root = write_folder(tmp_path), tmp_path / "root"
    bad = sorted(FILES)[40]
    (path / bad).write_bytes(b"no image")
    with pytest.raises(
        DataError, match=rf"^1 of {N} images cannot be read, all listed in .*damaged\.txt, such as .*skip"
    ):
        loaded(settings(path, **SMALL), root)
    [listing] = root.glob("artifacts/data/*.partial/damaged.txt")
    assert bad in listing.read_text()
    monkeypatch.setattr(preparing, "decode_into", None)  # nothing is decoded again
    assert sum(map(len, loaded(settings(path, on_error="skip", **SMALL), root).splits.values())) == N - 1
    with pytest.raises(DataError, match=r"^1 images cannot be read, all listed in .*skipped\.json, such as .*skip$"):
        loaded(settings(path, **SMALL), root)


def test_a_split_that_damage_empties_and_files_that_differ_are_refused(tmp_path) -> None:
    path, root = write_folder(tmp_path), tmp_path / "root"
    for name in FILES:
        (path / name).write_bytes(b"no image")
    for memory in ({}, SMALL):
        with pytest.raises(DataError, match="none of the images can be read"):
            loaded(settings(path, on_error="skip", **memory), root)
    other = write_folder(tmp_path / "other")
    for changes, told in (
        ({"image_size": None}, "set data.image_size"),
        ({"channels": None}, r"set data.channels=1 or"),
    ):
        with pytest.raises(DataError, match=told):
            loaded(settings(other, **changes, **SMALL), root)


def test_a_torn_block_is_made_again_and_a_whole_one_is_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparing, "MOST_PER_BLOCK", 5)
    path, root, data = write_folder(tmp_path), tmp_path / "root", None
    expected = loaded(settings(path), root)
    decoded: list[list[str]] = []
    decode = preparing.decode_into

    def counted(images: np.ndarray, names: Any, *rest: Any, **more: Any) -> Any:
        if len(decoded) == 6:
            raise KeyboardInterrupt
        decoded.append(list(names))
        return decode(images, names, *rest, **more)

    monkeypatch.setattr(preparing, "decode_into", counted)
    with pytest.raises(KeyboardInterrupt):
        loaded(settings(path, **SMALL), root)
    [partial] = root.glob("artifacts/data/*.partial")
    with (partial / "train.npy").open("r+b") as file:  # of the first block
        file.seek(200)
        file.write(b"\xff\x00\xff\x00")
    with (partial / "blocks.jsonl").open("a") as file:
        file.write('[["train", 30, 35], "9f')
    before, decoded[:] = list(decoded), []
    monkeypatch.setattr(preparing, "decode_into", lambda *a, **m: decoded.append(list(a[1])) or decode(*a, **m))
    data = loaded(settings(path, **SMALL), root)
    assert_same(expected, data)
    assert before[0] in decoded
    assert not any(names in decoded for names in before[1:])
    assert not partial.exists()


_KILLED = """
import sys
sys.path.insert(0, {src!r})
if __name__ == "__main__":
    from pathlib import Path
    from geovq.data import open_source, preparing
    from geovq.data.split import draw_splits
    preparing.MOST_PER_BLOCK = 4
    source = open_source("folder", "x", path=sys.argv[1], image_size=12, channels=3)
    preparing.prepare(source, draw_splits(source.info(), 0.2, 0), Path(sys.argv[2]), 2, "this code")
"""


def test_after_kill_9_nothing_runs_on_and_whoever_goes_on_gets_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparing, "MOST_PER_BLOCK", 4)
    path, folder, script = write_folder(tmp_path), tmp_path / "prepared", tmp_path / "killed.py"
    folder.mkdir()
    script.write_text(_KILLED.format(src=str(Path(__file__).parents[2] / "src")))
    process = subprocess.Popen([sys.executable, script, path, folder])
    record = folder / "blocks.jsonl"
    while not (record.is_file() and len(record.read_text().splitlines()) > 2):
        assert process.poll() is None
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    source = open_images(settings(path))
    preparing.prepare(source, draw_splits(source.info(), 0.2, 0), folder, 1, "this code")
    for name, part in loaded(settings(path), tmp_path).splits.items():
        assert torch.equal(mapped(folder / f"{name}.npy"), part.images)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_disk_that_is_full_ends_in_one_line_and_loses_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparing, "MOST_PER_BLOCK", 5)
    path, root, write, written = write_folder(tmp_path), tmp_path / "root", ImageFile.write, []

    def full(self: ImageFile, start: int, images: np.ndarray) -> str:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(start)
        return write(self, start, images)

    monkeypatch.setattr(ImageFile, "write", full)
    with pytest.raises(ArtifactError, match=r"^the disk is full while writing .*: free some space and run the same"):
        loaded(settings(path, **SMALL), root)
    written.clear()
    monkeypatch.setattr(ImageFile, "write", lambda *a: written.append(1) or write(*a))
    assert_same(loaded(settings(path), root), loaded(settings(path, **SMALL), root))
    assert len(written) == sum(-(-len(part) // 5) for part in loaded(settings(path), root).splits.values()) - 3


def test_a_limit_of_the_size_of_files_is_one_line(tmp_path, monkeypatch) -> None:
    path = write_folder(tmp_path)

    def limited(self: ImageFile, start: int, images: np.ndarray) -> str:
        raise OSError(27, "File too large")  # of ``ulimit -f``, without the name of the file

    monkeypatch.setattr(ImageFile, "write", limited)
    with pytest.raises(ArtifactError, match=r"^cannot use .*: File too large; mend that or choose another paths\.root"):
        loaded(settings(path, **SMALL), tmp_path / "root")


def test_too_little_room_is_told_before_anything_is_decoded(tmp_path, monkeypatch) -> None:
    path = write_folder(tmp_path)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda folder: SimpleNamespace(free=20_000))
    monkeypatch.setattr(preparing, "decode_into", None)
    with pytest.raises(
        ArtifactError, match=r"^preparing 60 images of 12x12x3 needs 2\.59e-05 GB in .*2e-05 GB are free"
    ):
        loaded(settings(path, **SMALL), tmp_path / "root")


def test_a_damaged_artifact_is_prepared_again(tmp_path, capsys) -> None:
    path, root = arrays(tmp_path), tmp_path / "root"
    first = loaded(settings(path, **SMALL), root)
    file = artifact_of(root) / "test.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    assert_same(loaded(settings(path), root), loaded(settings(path, **SMALL), root))
    assert "set aside as" in capsys.readouterr().err
    assert len(first.test) == 12


def test_a_source_with_load_alone_is_prepared_from_memory(tmp_path) -> None:
    values = option("data", "digits") | {"root": "x", "image_size": 9, "limit": 100, "validation": 10}
    assert_same(
        loaded(parse(Data, values, "data"), tmp_path),
        loaded(parse(Data, values | SMALL, "data"), tmp_path),
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"on_error": "ignore"}, r"^data\.on_error='ignore': input should be 'stop' or 'skip'$"),
        ({"memory_gb": 0}, r"^data\.memory_gb=0: input should be greater than 0$"),
        ({"memory_gb": -1.5}, r"^data\.memory_gb=-1\.5: input should be greater than 0$"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, change, told) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(tmp_path, **change)


def test_files_are_skipped_only_where_there_are_files() -> None:
    with pytest.raises(ConfigError, match=r"^data\.on_error=skip: data=digits has no files to leave out; take stop$"):
        parse(Data, option("data", "digits") | {"root": "x", "on_error": "skip"}, "data")


def test_a_map_may_be_larger_than_the_memory(tmp_path) -> None:
    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    with (tmp_path / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 1, 2**10, 2**10)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 2**20)  # without a block on the disk
    assert mapped(tmp_path / "images.npy")[rows - 1].sum() == 0


@pytest.mark.parametrize(
    "stages", ["stages=[latents]", pytest.param("stages=all", marks=pytest.mark.slow)], ids=["latents", "report"]
)
def test_a_run_on_prepared_images_has_the_keys_and_results_of_one_in_memory(
    tmp_path, make_runner: Callable[..., Any], stages: str
) -> None:
    first = make_runner(tmp_path / "memory", stages)
    second = make_runner(tmp_path / "disk", stages, "data.memory_gb=1e-6")
    assert first.keys == second.keys
    digests = [{name: run.artifact.tensors_digest for name, run in runner.run().items()} for runner in (first, second)]
    assert (tmp_path / "disk/artifacts/data").is_dir()
    assert digests[0] == digests[1]


def test_floats_go_to_a_file_where_they_are_too_large_for_memory(tmp_path, make_runner: Callable[..., Any]) -> None:
    room = room_within(100, tmp_path)
    parts = torch.arange(60.0).reshape(10, 2, 3)
    for n in (4, 10):  # 96 and 240 bytes
        whole = filled(parts[:n].split(3), n, room)
        assert torch.equal(whole, parts[:n])
        assert (str(tmp_path) in Path("/proc/self/maps").read_text()) == (n == 10)
    assert not list(tmp_path.iterdir())
    context = make_runner(tmp_path / "root", "data.memory_gb=1e-6").context
    images = EvaluatedRun(context, {}).images_of("validation")
    assert torch.equal(images, context.data.validation.images.float() / 255)
    assert torch.equal(EvaluatedRun(context, {}).images_of("validation", 5), images[drawn(5, len(images))])


def test_images_that_a_device_does_not_hold_come_there_batch_by_batch() -> None:
    images = torch.randint(0, 256, (1203, 1, 3, 3), dtype=torch.uint8)
    copied = CopiedImages(images, torch.device("cpu"))
    index = torch.tensor([5, 0, 1202])
    assert torch.equal(copied[index], images[index])
    assert torch.equal(copied[10:20], images[10:20])
    assert torch.equal(torch.cat(list(copied.split(500))), images)
    assert (len(copied), copied.dtype) == (1203, torch.uint8)

    def network(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).sum(1)

    assert torch.equal(predict(network, copied, copied.device), predict(network, images, copied.device))


def test_images_larger_than_the_memory_are_refused_where_all_have_to_be_there(compose: Callable[..., Any]) -> None:
    config = validate(compose("data=folder", "data.path=photos"))
    info = DataInfo("folder", 10**6, 10**5, 3, 2000, 2000, 0, (), "")
    check(config, info, streams=True)
    with pytest.raises(DataError, match=r"^data: 1,100,000 images of 2000x2000x3 need .* GiB of memory"):
        check(config, info)
