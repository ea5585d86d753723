"""``src/decompress.py``: the images of a file that ``src/compress.py`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from geovq.commands.recorded import MADE_FROM_CODES, RecordedSettings, find, restore
from geovq.configuration.fields import Count, FilePath, Seed
from geovq.configuration.parse import parse
from geovq.errors import ArtifactError, ConfigError, DataError, TrackingError
from geovq.folders import writable

if TYPE_CHECKING:
    from torch import Tensor

    from geovq.coding.format import Block, Header
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context, Inputs


class DecompressSettings(RecordedSettings):
    """``configs/decompress.yaml``."""

    stale: Literal["warn", "ignore"]
    file: FilePath | None
    output: FilePath | None
    only: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None
    prefix: Annotated[float, Field(ge=0, le=1)]
    seed: Seed
    batch_size: Count


def decompress(composed: DictConfig) -> None:
    """Read the file, find its run, decode, write the images, and say where."""
    settings = parse(DecompressSettings, OmegaConf.to_container(composed, resolve=True))
    from geovq.coding.format import read_body, read_header
    from geovq.commands.image_files import check_new, file_names, write_folder, write_npz

    if settings.file is None:
        raise ConfigError("file=null: name the file, such as python src/decompress.py photos.gvq")
    path = Path(settings.file)
    if path.is_dir():
        raise ConfigError(f"file={path}: is a folder; name a file of compress.py")
    output = Path(settings.output) if settings.output else path.with_suffix("")
    is_npz = output.suffix.lower() == ".npz"
    if output == path or (output.exists() and output.is_dir() == is_npz):
        wanted = "a file" if is_npz else "a folder"
        raise ConfigError(f"output={output}: is there and is not {wanted}; name another")
    try:
        writable(str(output.parent if is_npz else output))
    except ValueError as error:
        raise ConfigError(f"output={output}: {error}") from None
    data = path.read_bytes()
    header = read_header(data, path.name)
    names, blocks = read_body(data, header, path.name)
    targets = file_names(names, header.n_images)
    if settings.only is not None:
        if max(settings.only) >= header.n_images:
            raise ConfigError(f"only={max(settings.only)}: {path.name} has images 0 to {header.n_images - 1}")
        names, targets = ([known[number] for number in settings.only] for known in (names or targets, targets))
    check_new(output, [output] if is_npz else [output / target for target in targets])
    runner = run_of(header, settings, path.name)
    images = decompressed(runner, header, blocks, settings, path.name)
    if is_npz:
        write_npz(output, images, names)
    else:
        write_folder(output, images, targets)
    print(f"{len(images):,} image{'s' * (len(images) > 1)}: {output}")


def run_of(header: Header, settings: DecompressSettings, name: str) -> Runner:
    """The run that a file was written with.

    Raises:
        DataError: the run is another one.
        ConfigError, TrackingError: it is not there.
    """
    named = header.run_id if settings.run == "file" else settings.run
    try:
        record = find(settings.model_copy(update={"run": named}))
    except TrackingError as error:
        raise TrackingError(
            f"{name}: needs the run {header.run_id}, or run=<one with its artifacts>: {error}"
        ) from error
    runner, _ = restore(record, settings, indifferent=MADE_FROM_CODES, images=False)
    check_run(header, runner, name)
    return runner


def check_run(header: Header, runner: Runner, name: str) -> None:
    """Refuse a run with other artifacts than those that the file was written with, or other images.

    Raises:
        DataError: which they are.
    """
    from geovq.pipeline.stages.networks import codes_stage, final_networks

    config, info = runner.context.config, runner.context.info
    wanted = {final_networks(config)[-1]: header.decoder, codes_stage(config): header.codes}
    wanted |= {"prior": header.prior} if header.prior else {}
    theirs = {stage: runner.keys.get(stage, "none") for stage in wanted}
    if others := [
        f"{stage} {key} (the run has {theirs[stage]})" for stage, key in wanted.items() if theirs[stage] != key
    ]:
        raise DataError(f"{name}: was written with {', '.join(others)}; name the run that it was written with by run=")
    if header.image_shape != info.image_shape:
        raise DataError(f"{name}: holds images of shape {header.image_shape}, and the run has {info.image_shape}")


def decompressed(
    runner: Runner,
    header: Header,
    blocks: list[Block],
    settings: DecompressSettings,
    name: str,
) -> Tensor:
    """Images (N, C, H, W) as bytes.

    Raises:
        ArtifactError: artifacts are missing.
        DataError: the file was written with another prior, or is damaged.
        ConfigError: a prefix, and nothing to complete it with.
    """
    import torch

    from geovq.coding.file import decode
    from geovq.coding.of_run import Kind, frequency_prior, kind_of, stages_read
    from geovq.pipeline.new_images import images_of
    from geovq.pipeline.stages.codes import load_codec
    from geovq.pipeline.stages.networks import final_codes

    context = runner.context
    config = context.config
    completes = settings.prefix < 1
    if completes and not (config.has_prior and type(config.prior).owner.completes):
        its = f"prior={config.prior.name}, which does not complete" if config.has_prior else "no prior"
        raise ConfigError(f"prefix={settings.prefix:g}: this run has {its}; leave it at 1")
    kind: Kind = kind_of(config, header.kind)  # type: ignore[arg-type]
    needed = dict.fromkeys((*stages_read(config, kind), *(("prior",) if completes else ())))
    artifacts = runner.present(needed)
    missing = [f"{stage}/{runner.keys[stage]}" for stage in needed if stage not in artifacts]
    if missing:
        there = f"not there below {runner.store.root}; copy them, or train the run again"
        raise ArtifactError(f"{name}: needs {', '.join(missing)}, {there}")
    inputs = {stage: artifacts[stage] for stage in needed}
    for artifact in inputs.values():
        artifact.verify()
    codec = load_codec(final_codes(inputs))
    prior = frequency_prior(context, inputs, codec, kind)
    if len(prior.sizes) != header.n_codes:
        raise DataError(f"{name}: has {header.n_codes} codes per image, and the run {len(prior.sizes)}")
    if prior.digest != header.digest:
        raise DataError(
            f"{name}: the probabilities (digest {prior.digest.hex()}) are not those that it was written with "
            f"({header.digest.hex()}): its run was computed anew, or its codewords come out otherwise on this machine"
        )
    how: dict[str, Any] = {"threads": torch.get_num_threads(), "batch_size": settings.batch_size}
    if settings.only is None:
        flat, labels = decode(prior, header, blocks, name, **how)
    else:
        size = header.block_images
        numbers = sorted({number // size for number in settings.only})
        flat, labels = decode(prior, header, blocks, name, numbers=numbers, **how)
        rows = [numbers.index(number // size) * size + number % size for number in settings.only]
        flat, labels = flat[rows], labels[rows]
    codes = torch.from_numpy(flat).reshape(len(flat), *codec.shape)
    if completes:
        codes = completed(context, inputs, codes, torch.from_numpy(labels), settings)
    return images_of(context, inputs, codes)


def completed(context: Context, inputs: Inputs, codes: Tensor, labels: Tensor, settings: DecompressSettings) -> Tensor:
    """Codes (N, *shape) of which the first share of each image is kept, the others drawn from the prior."""
    import torch

    from geovq.models.prior import CategoricalPrior
    from geovq.pipeline.stages.prior import load_prior

    prior = load_prior(context, inputs)
    assert isinstance(prior, CategoricalPrior)
    length = prior.layout.length
    mask = (torch.arange(length) < round(settings.prefix * length)).reshape(codes.shape[1:]).expand(codes.shape)
    starts = prior.layout.start_ids(labels, len(labels))
    return prior.complete(starts, codes, mask, seed=settings.seed, batch_size=settings.batch_size)
