"""Whether a configuration and its images fit together: asked before any compute, all faults told at once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.errors import ConfigError

if TYPE_CHECKING:
    from geovq.data import DataInfo
    from geovq.pipeline.config import Config


def check(config: Config, info: DataInfo) -> None:
    """Grid, K, neighbours, sequence and images.

    Raises:
        ConfigError: one line per fault, each with the key, the value and what is allowed.
    """
    from geovq.data.split import validation_count
    from geovq.models.layers import allowed_grids

    faults: list[str] = []
    n_images = min(info.n_train, config.data.limit or info.n_train)
    try:
        n_images -= validation_count(config.data.validation, n_images)
    except ConfigError as error:
        faults.append(str(error))
    image = (info.height, info.width)
    grids = allowed_grids(image)
    if config.vae.grid not in grids:
        listed = ", ".join(str(grid) for grid in grids)
        faults.append(f"vae.grid={config.vae.grid}: images of {info.height}x{info.width} allow {listed}")
    n_tokens = n_images * config.n_tokens
    if n_tokens < config.quantizer.K:
        faults.append(
            f"quantizer.K={config.quantizer.K}: there are {n_tokens} training tokens ({n_images} images of "
            f"{config.n_tokens}); choose a smaller K"
        )
    if not config.is_joint and config.geo.k >= n_tokens:
        faults.append(f"geo.k={config.geo.k}: needs more than {n_tokens} training tokens; choose a smaller k")
    weights = config.evaluation.lpips_weights
    if weights is not None and not Path(weights).expanduser().is_file():
        faults.append(f"evaluation.lpips_weights={weights}: no such file; give torchvision's weights of the backbone")
    if config.prior is not None and config.prior.class_conditional and info.n_classes == 0:
        warnings.warn("the images have no labels: the prior is trained without classes", stacklevel=2)
    if faults:
        raise ConfigError("\n".join(faults))
