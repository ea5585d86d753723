"""The errors a person meets.

Every message is one line that names the thing, its value and the remedy. The entry points print it
without a traceback (unless ``GEOVQ_DEBUG=1``); in a notebook these are ordinary exceptions.
"""

from __future__ import annotations


class GeoVQError(Exception):
    """Base of all errors that are the input's fault rather than the program's."""


class InputError(GeoVQError, ValueError):
    """A function was given arguments it cannot work with (shapes, ranges, NaN)."""


class ConfigError(GeoVQError):
    """The composed configuration cannot describe a run."""


class DataError(GeoVQError):
    """Images or labels are missing, damaged or do not fit together."""


class ArtifactError(GeoVQError):
    """A stored artifact cannot be written or read."""


class TrainingError(GeoVQError):
    """Training had to stop; the last good checkpoint is kept."""


class RankError(GeoVQError):
    """One of several processes that compute a run together has ended; checkpoints are kept."""


class TrackingError(GeoVQError):
    """The tracking server or a run on it cannot be used."""


class ForeignCodeError(GeoVQError):
    """A class of someone else's, named by a ``_target_``, failed."""


def first_line(error: object) -> str:
    """The first line of what an error of someone else's says, with the next where it ends in a colon; else its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])
