"""The types of settings: what values a key may have. Constructors of our classes and sections are annotated with them.

A class of your own may use these, any annotation that pydantic understands (``Annotated[int, Field(ge=1)]``,
``Literal["a", "b"]``), or plain ``int``, ``float``, ``bool`` and ``str``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WrapValidator

from geovq.folders import absolute, writable

Count = Annotated[int, Field(ge=1)]


def _auto_is_0(value: Any, check: Callable[[Any], int]) -> int:
    return 0 if value == "auto" else check(value)


CountOrAuto = Annotated[int, Field(ge=1), WrapValidator(_auto_is_0)]
"""auto is 0, until ``geovq.configuration.settled`` knows the number."""
Parts = Annotated[int, Field(ge=2)]
Codes = Annotated[int, Field(ge=2)]
FewCodes = Annotated[int, Field(ge=2, le=65_536)]
"""Of quantizers that look at every value of a token: at most ``geovq.models.sizes.JOINED_CODES``."""
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Restart = Annotated[float, Field(ge=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Resamplings = Annotated[int, Field(ge=1, le=10_000_000)]
FilePath = Annotated[str, AfterValidator(absolute)]
OutputFolder = Annotated[str, AfterValidator(writable)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z][\w.+-]*$")]
"""The name of an option, as in ``quantizer=<name>``: the stem of its file."""
OnError = Literal["stop", "skip"]
"""What becomes of a run when an image cannot be read."""
StalePolicy = Literal["warn", "rebuild", "ignore"]
