"""Evaluators as other people write them."""

from __future__ import annotations

import torch

from geovq.evaluation import needs
from geovq.evaluation.evaluator import HIGHER, Evaluator, Measured, Score


class Sharpness(Evaluator):
    """How strong the edges of reconstructions are"""

    scores = (
        Score("sharpness", "sharpness", "edges", HIGHER, ".3f", "mean size of the gradient"),
        Score("sharpness_of_<data>", "sharpness", description="of nothing, for the placeholder"),
    )

    def __init__(self, power: float = 1.0) -> None:
        if power <= 0:
            raise ValueError(f"power={power} must be positive")
        self.power = power

    def measure(self, run):
        across = run.quantized.diff(dim=3).abs().flatten(1).mean(1) ** self.power
        return Measured.of_images({"sharpness": across}) | Measured(omitted={f"sharpness_of_{run.info.name}": "none"})


class Nothing(Evaluator):
    def measure(self, run):
        return Measured()


class NeedsAPrior(Nothing):
    scores = (Score("needs_a_prior", "that"),)
    needs = (needs.prior,)


class Psnr(Nothing):
    scores = (Score("psnr", "PSNR"),)


class Fid(Nothing):
    scores = (Score("fid_digits_cnn", "FID"),)


class Fails(Evaluator):
    scores = (Score("some", "some"), Score("other", "other"))

    def __init__(self, how: str) -> None:
        self.how = how

    def measure(self, run):
        if self.how == "raises":
            raise KeyError("nothing")
        values = {"some": 1.0, "other": 2.0}
        if self.how == "missing":
            del values["some"]
        if self.how == "undeclared":
            values["third"] = 3.0
        if self.how == "infinite":
            values["some"] = float("inf")
        return Measured(values, {"some": torch.zeros(3)} if self.how == "shape" else {})


class Unwritten(Evaluator):
    scores = (Score("unwritten", "unwritten"),)
