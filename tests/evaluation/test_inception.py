"""Scores on Inception-v3, with random weights where torch-fidelity is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from geovq.errors import InputError
from geovq.evaluation.evaluator import measure
from geovq.evaluation.inception import inception, inception_identity, inception_network, inception_outputs

MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class Small(nn.Module):
    """As torch-fidelity's class behaves: unpickles what it is given, refuses other weights, gives two outputs."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Any) -> None:
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.fc = nn.Linear(12, 5)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert images.dtype == torch.uint8
        features = images[:, :, :2, :2].float().flatten(1) / 255  # (n, 12)
        return features, self.fc(features)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module: Any = ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = Small
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)
    torch.manual_seed(0)
    torch.save(nn.ModuleDict({"fc": nn.Linear(12, 5)}).state_dict(), tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


class Harmful:
    """Would run when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the file was unpickled without restriction",))


def test_what_is_no_file_of_its_weights_is_told_in_a_line(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"inception_weights=/nowhere.pth: no such file; give torch-fidelity's"):
        inception_network("/nowhere.pth")
    other, harmful = weights.with_name("other.pth"), weights.with_name("harmful.pth")
    for content in ({"fc.weight": torch.zeros(3, 2)}, [1, 2]):
        torch.save(content, other)
        with pytest.raises(InputError, match=r"other.pth: another network's weights; give torch-fidelity's"):
            inception_network(other)
    torch.save({"fc.weight": Harmful()}, harmful)
    with pytest.raises(InputError, match=r"harmful.pth: cannot be read as a state dict"):
        inception_network(harmful)
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(InputError, match=r"needs the package .*pip install 'geovq\[fidelity\]'"):
        inception_network(weights)


def test_identity_follows_the_content(weights: Path) -> None:
    before = inception_identity(str(weights))
    weights.write_bytes(weights.read_bytes() + b"0")
    assert before != inception_identity(str(weights))
    assert inception_identity(None) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_beside_their_floors(weights: Path, channels: int) -> None:
    stored = torch.randint(0, 256, (3, 30, channels, 4, 4), generator=torch.Generator().manual_seed(0))
    test, train, samples = stored.to(torch.uint8)
    run: Any = SimpleNamespace(
        info=SimpleNamespace(name="some"),
        unit="pixel",
        prior={},
        device=torch.device("cpu"),
        n_compared=30,
        images=test.float() / 255,
        images_of=lambda split, n: train[:n].float() / 255,
        samples={"images": samples},
        quantized=test.float() / 255,
        unquantized=test.float() / 255,
        cut=lambda rows, n: rows[:n],
        config=SimpleNamespace(latents_are_points=True, evaluation=SimpleNamespace(inception_weights=str(weights))),
    )
    found = measure([inception], run)
    assert not found.omitted
    assert found.values["fid_inception_reconstructions"] == pytest.approx(0, abs=1e-6)
    assert found.values["kid_inception_reconstructions"] == pytest.approx(0, abs=1e-3)
    assert found.values["fid_inception"] > 0 < found.values["fid_inception_standard_error"]
    assert found.values["is_inception_test"] == found.values["is_inception_reconstructions"] >= 1
    run.config.evaluation.inception_weights = None
    reasons = set(measure([inception], run).omitted.values())
    [reason] = reasons
    assert reason.startswith("evaluation.inception_weights=null: give torch-fidelity's")


@pytest.mark.slow
def test_the_network_of_torch_fidelity_with_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip(MODULE)
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *given, **named: {})
    with monkeypatch.context() as patch:
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        untrained = module.FeatureExtractorInceptionV3("untrained", ["2048"])
    torch.save(untrained.state_dict(), tmp_path / "random.pth")
    network = inception_network(tmp_path / "random.pth")
    features, probabilities = inception_outputs(network, torch.rand(2, 1, 28, 28), torch.device("cpu"))
    assert (features.shape, probabilities.shape) == ((2, 2048), (2, 1008))
    assert torch.allclose(probabilities.sum(1), torch.ones(2))
    state = untrained.state_dict()
    del state["fc.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(InputError, match="another network's weights"):
        inception_network(tmp_path / "less.pth")
