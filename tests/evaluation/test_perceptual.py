import hashlib
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from geovq.errors import InputError
from geovq.evaluation import reconstruction
from geovq.evaluation.perceptual import lpips_per_image, perceptual_distance, perceptual_distances
from geovq.models import lpips
from geovq.models.classifier import SmallClassifier


def distance_by_definition(first, second):
    """Zhang et al. 2018, eq. 1, pixel by pixel."""
    total = 0.0
    for a, b in zip(first, second, strict=True):  # layers, (F, H, W)
        summed = 0.0
        for row in range(a.shape[1]):
            for col in range(a.shape[2]):
                p, q = a[:, row, col], b[:, row, col]
                summed += np.sum((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2)
        total += summed / (a.shape[1] * a.shape[2])
    return total


def test_formula():
    generator = torch.Generator().manual_seed(0)
    first = [torch.rand(3, 8, 6, 5, generator=generator), torch.rand(3, 16, 3, 2, generator=generator)]
    second = [torch.rand_like(layer) for layer in first]
    expected = [
        distance_by_definition([f[i].double().numpy() for f in first], [s[i].double().numpy() for s in second])
        for i in range(3)
    ]
    np.testing.assert_allclose(perceptual_distance(first, second), expected, rtol=1e-5)


def test_opposite_features_are_at_four_and_empty_ones_at_zero():
    layer = torch.rand(2, 4, 3, 3) + 0.1
    torch.testing.assert_close(perceptual_distance([layer], [-layer]), torch.full((2,), 4.0))
    torch.testing.assert_close(perceptual_distance([0 * layer], [0 * layer]), torch.zeros(2))
    # unit length: brightness of the features does not count
    torch.testing.assert_close(perceptual_distance([layer], [7 * layer]), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (4, 3, 32, 32)])
def test_zero_on_identical_images_and_growing_with_the_noise(shape, monkeypatch):
    network = SmallClassifier(*shape[1:], n_classes=10, hidden_channels=8).eval()
    images = torch.rand(shape)
    assert not perceptual_distances(network, images, images).any()
    near, far = (images + s * torch.rand(shape) for s in (0.02, 0.5))
    distances = perceptual_distances(network, images, near.clamp(0, 1))
    assert 0 < distances.mean() < perceptual_distances(network, images, far.clamp(0, 1)).mean()
    monkeypatch.setattr(reconstruction, "_CHUNK_BYTES", 1)
    one_by_one = perceptual_distances(network, images, near.clamp(0, 1))
    torch.testing.assert_close(one_by_one, distances, rtol=1e-3, atol=1e-6)


def test_refuses_features_of_different_networks():
    with pytest.raises(InputError, match="same network"):
        perceptual_distance([torch.rand(1, 4, 2, 2)], [torch.rand(1, 4, 2, 3)])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A random SqueezeNet in the form in which torchvision publishes it, and the file's path."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    network = squeezenet1_1(weights=None)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(network.state_dict(), path)
    return network.eval(), path


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 96, 80)])
def test_lpips_matches_its_definition_on_a_local_backbone(shape, backbone):
    import torchmetrics

    network, path = backbone
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    distances, note = lpips_per_image(first, second, weights=path, network="squeeze")
    assert str(path) in note

    # linear weights from the package; the layers of Zhang et al.'s squeeze variant end at these modules
    linear = torch.load(
        f"{torchmetrics.__path__[0]}/functional/image/lpips_models/squeeze.pth",
        map_location="cpu",
        weights_only=True,
    )
    ends = [1, 4, 7, 9, 10, 11, 12]

    def maps(images):
        x = 2 * images.expand(-1, 3, -1, -1) - 1
        if min(shape[2:]) < 64:
            x = functional.interpolate(x, (64, 64), mode="bilinear", align_corners=False)
        mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
        found = []
        for index, module in enumerate(network.features):
            x = module(x)
            if index in ends:
                found.append(x / (x.norm(dim=1, keepdim=True) + 1e-12))
        return found

    expected = torch.zeros(shape[0])
    with torch.no_grad():
        for layer, (a, b) in enumerate(zip(maps(first), maps(second), strict=True)):
            weight = linear[f"lin{layer}.model.1.weight"]
            expected += (weight * (a - b) ** 2).sum(1).mean((1, 2))
    torch.testing.assert_close(distances, expected, rtol=1e-3, atol=1e-5)
    same, _ = lpips_per_image(first, first, weights=path, network="squeeze")
    assert not same.any()


IMAGES = torch.rand(2, 1, 8, 8)


def no_network(monkeypatch, tmp_path, behaviour):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", behaviour)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_lpips_is_left_out_with_a_reason_when_offline(monkeypatch, tmp_path):
    def refuse(*arguments, **keywords):
        raise socket.gaierror(-2, "Name or service not known")

    no_network(monkeypatch, tmp_path, refuse)
    value, reason = lpips_per_image(IMAGES, IMAGES)
    assert value is None
    assert "Name or service not known" in reason
    assert "evaluation.lpips_weights" in reason
    assert "alexnet-owt-7be5be79.pth" in reason


def test_lpips_does_not_wait_for_a_silent_network(monkeypatch, tmp_path):
    def hang(*arguments, **keywords):
        time.sleep(3)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    no_network(monkeypatch, tmp_path, hang)
    monkeypatch.setattr(lpips, "CONNECT_SECONDS", 0.2)
    start = time.monotonic()
    value, reason = lpips_per_image(IMAGES, IMAGES)
    assert value is None
    assert "no answer" in reason
    assert time.monotonic() - start < 2


def test_a_download_is_whole_and_checked(monkeypatch, tmp_path, backbone):
    from torchvision import models

    source = backbone[1]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    folder = tmp_path / "hub" / "checkpoints"
    no_network(monkeypatch, tmp_path, None)
    monkeypatch.setattr(lpips, "_unreachable", lambda url: None)
    for name, fits in ((digest[:8], True), ("00000000", False)):
        there = tmp_path / f"squeezenet1_1-{name}.pth"
        there.write_bytes(source.read_bytes())
        weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=there.as_uri()))
        monkeypatch.setattr(models, "get_model_weights", lambda network, weights=weights: weights)
        found, note = lpips_per_image(IMAGES, 1 - IMAGES, network="squeeze")
        assert (found is not None) is fits
        assert ("invalid hash value" in note) is not fits
    assert [path.name for path in folder.iterdir()] == [f"squeezenet1_1-{digest[:8]}.pth"]


def test_cached_weights_are_used(monkeypatch, tmp_path, backbone):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "squeezenet1_1-b8a52dc0.pth").write_bytes(backbone[1].read_bytes())
    no_network(monkeypatch, tmp_path, None)
    images = torch.rand(2, 1, 28, 28)
    found, _ = lpips_per_image(images, 1 - images, network="squeeze")
    torch.testing.assert_close(found, lpips_per_image(images, 1 - images, backbone[1], "squeeze")[0])


def test_lpips_refuses_wrong_files_and_names(tmp_path, backbone):
    with pytest.raises(InputError, match="do not exist"):
        lpips_per_image(IMAGES, IMAGES, weights=tmp_path / "absent.pth")
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no state dict")
    with pytest.raises(InputError, match="cannot be read"):
        lpips_per_image(IMAGES, IMAGES, weights=damaged)
    with pytest.raises(InputError, match=r"features\.0\.weight"):
        lpips_per_image(IMAGES, IMAGES, weights=backbone[1], network="alex")
    with pytest.raises(InputError, match="resnet"):
        lpips_per_image(IMAGES, IMAGES, network="resnet")
    with pytest.raises(InputError, match="2 channels"):
        lpips_per_image(torch.rand(1, 2, 8, 8), torch.rand(1, 2, 8, 8))


def test_lpips_never_unpickles_objects(tmp_path):
    path = tmp_path / "objects.pth"
    torch.save({"features.0.weight": SmallClassifier(1, 8, 8, 2)}, path)
    with pytest.raises(InputError, match="cannot be read"):
        lpips_per_image(IMAGES, IMAGES, weights=path)
