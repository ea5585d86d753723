import pytest
import torch
from torch.nn import functional

from geovq.errors import InputError
from geovq.models.classifier import SmallClassifier


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 14)])
def test_shapes(shape):
    network = SmallClassifier(*shape, n_classes=7, hidden_channels=8, embedding_size=20)
    images = torch.rand(3, *shape)
    maps = network.features(images)
    height, width = shape[1:]
    assert [tuple(m.shape) for m in maps] == [
        (3, 8, height, width),
        (3, 16, height // 2, width // 2),
        (3, 32, height // 4, width // 4),
    ]
    assert network.embedding(images).shape == (3, 20)
    assert network(images).shape == (3, 7)


def test_an_image_is_judged_alone():
    network = SmallClassifier(1, 8, 8, 10)
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network(images)[2:3], network(images[2:3]), rtol=1e-4, atol=1e-5)


def test_logits_are_linear_in_the_embedding():
    network = SmallClassifier(1, 8, 8, 10)
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network(images), network.output(network.embedding(images)))


def test_learns_the_digits():
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = SmallClassifier(1, 8, 8, 10, hidden_channels=16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(80):
        index = torch.randint(1400, (128,), generator=torch.Generator().manual_seed(step))
        loss = functional.cross_entropy(network(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = float((network(images[1400:]).argmax(1) == labels[1400:]).float().mean())
    neighbour = KNeighborsClassifier(5).fit(images[:1400].flatten(1), labels[:1400])
    peer = neighbour.score(images[1400:].flatten(1), labels[1400:])
    assert accuracy > peer - 0.03


@pytest.mark.parametrize(
    "arguments", [(1, 3, 28, 10), (1, 28, 28, 1), (1, 28, 28, 10, 12), (1, 28, 28, 10, 0)], ids=str
)
def test_refuses(arguments):
    with pytest.raises(InputError):
        SmallClassifier(*arguments)


def test_refuses_other_images():
    with pytest.raises(InputError, match="28"):
        SmallClassifier(1, 8, 8, 10)(torch.rand(1, 1, 28, 28))
