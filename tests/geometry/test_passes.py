"""How many images go through a network at a time, and that the number does not matter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from geovq.assignment import search
from geovq.assignment.sequential import sequential_codes
from geovq.geometry import computing
from geovq.geometry.computing import forward_mode, images_per_pass, saved_bytes
from geovq.geometry.metric import token_metrics
from geovq.geometry.symmetric import unpack_symmetric


def decoder() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=4), nn.Conv2d(8, 1, 3, padding=1))
    return nn.Sequential(*layers, nn.Sigmoid()).eval().requires_grad_(False)


def test_what_a_backward_pass_reads_is_counted_and_weights_are_not() -> None:
    size = 4 * 4 * (3 + 8) * 4  # bytes of the maps that convolution and SiLU read
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU()).eval().requires_grad_(False)
    assert saved_bytes(network, torch.randn(1, 3, 4, 4)) == size
    assert saved_bytes(nn.Linear(5, 7).requires_grad_(False), torch.randn(1, 5)) == 0


def test_numbers_of_images_follow_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network, z = decoder(), torch.randn(1, 3, 4, 4)
    needed = saved_bytes(network, z)
    assert images_per_pass(network, z, 128, backward=True) == 128
    monkeypatch.setitem(computing.BYTES_PER_PASS, "cpu", 5 * needed)
    assert images_per_pass(network, z, 128, backward=True) == 5
    assert images_per_pass(network, z, 4, backward=True) == 4
    assert images_per_pass(network, z, 128, backward=False) == 20
    monkeypatch.setitem(computing.BYTES_PER_PASS, "cpu", 1)
    assert images_per_pass(network, z, 128, backward=True) == 1


def test_few_images_at_a_time_give_what_many_give(monkeypatch: pytest.MonkeyPatch) -> None:
    network, latents, words = decoder(), torch.randn(7, 3, 4, 4), torch.randn(16, 3)
    images = network(torch.randn(7, 3, 4, 4))
    seen: list[int] = []
    network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))

    def all_of_it() -> list[torch.Tensor]:
        metrics = token_metrics(network, latents, n_probes=8, precision="32")
        start = torch.zeros(7, 4, 4, dtype=torch.long)
        found = search.search_codes(network, images, start, words, metrics, precision="32")
        return [metrics, sequential_codes(network, latents, words, n_probes=8), found.codes, found.cost_after]

    whole = all_of_it()
    assert max(seen) == 7
    seen.clear()
    monkeypatch.setitem(computing.BYTES_PER_PASS, "cpu", 2 * saved_bytes(network, latents[:1]))
    parts = all_of_it()
    assert max(seen) == 4  # of the check of the decoder; two of all else
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_tokens_of_a_grid_of_32_are_measured_in_their_own_image() -> None:
    network, latents = decoder(), 2 * torch.randn(2, 3, 32, 32)
    sketch = unpack_symmetric(token_metrics(network, latents, n_probes=64, precision="32"), 3).view(2, 32, 32, 3, 3)
    here, there, exact = [], [], []
    for row, col in ((0, 0), (3, 17), (16, 16), (24, 5), (30, 9), (31, 31)):
        columns = []
        for dim in range(3):
            direction = torch.zeros(1, 3, 32, 32)
            direction[0, dim, row, col] = 1
            with forward_mode():
                columns.append(torch.func.jvp(network, (latents[1:],), (direction,))[1].flatten())
        jacobian = torch.stack(columns)
        exact.append(jacobian @ jacobian.T)
        here.append(sketch[1, row, col])
        there.append(sketch[0, row, col])
    own, other, true = (torch.stack(each) for each in (here, there, exact))
    assert float((own - true).norm() / true.norm()) < 0.25  # of 64 colours, those of the pixels that a token moves
    assert float((other - true).norm() / true.norm()) > 0.35  # the same places of another image
