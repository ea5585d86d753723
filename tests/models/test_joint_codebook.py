from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geovq.models.joint_codebook import GradientCodebook, MovingCodebook, VectorCodebook, nearest
from geovq.models.joint_quantizer import code_counts, perplexity, straight_through, usage


def clusters(n: int = 400, k: int = 8, dim: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(k, dim, generator=generator)
    return centres[torch.arange(n) % k] + 0.1 * torch.randn(n, dim, generator=generator), centres


def moving(
    n_codes: int = 8, dim: int = 3, decay: float = 0.9, restart: float = 0.0, rotation: bool = False
) -> MovingCodebook:
    torch.manual_seed(0)
    return MovingCodebook(dim, n_codes, 0.25, decay, restart, rotation)


def begun(codebook: VectorCodebook, table: Tensor) -> VectorCodebook:
    """As if k-means had found ``table``, with one token for each code."""
    state = codebook.underlying._codebook
    with torch.no_grad():
        state.embed.copy_(table[None])
        state.embed_avg.copy_(table[None])
    state.cluster_size.fill_(1)
    state.initted.fill_(True)
    return codebook


def test_codes_are_the_nearest_rows_by_brute_force() -> None:
    tokens, table = torch.randn(200, 5), torch.randn(17, 5)
    slow = torch.tensor([min(range(17), key=lambda k: float((token - table[k]).square().sum())) for token in tokens])
    assert torch.equal(nearest(tokens, table), slow)


def test_training_and_evaluation_choose_the_same_codes() -> None:
    torch.manual_seed(0)
    codebook = begun(moving(n_codes=17), torch.randn(17, 3))
    tokens = torch.randn(200, 3)
    before = codebook.codes(tokens)
    assert torch.equal(codebook.train()(tokens, 0.0).codes, before)


def test_gradients_of_the_published_loss() -> None:
    torch.manual_seed(0)
    codebook = begun(GradientCodebook(3, 6, beta=0.25, decay=0.9, restart=0.0), torch.randn(6, 3)).train()
    tokens = torch.randn(20, 3, requires_grad=True)
    quantized = codebook(tokens, 0.0)
    quantized.penalty.backward()
    codes = quantized.codes[:, 0]
    gap = (codebook.table[codes] - tokens).detach()
    expected = torch.zeros(6, 3).index_add(0, codes, 2 * gap / gap.numel())
    torch.testing.assert_close(codebook.underlying._codebook.embed.grad[0], expected)
    torch.testing.assert_close(tokens.grad, -0.25 * 2 * gap / gap.numel())
    # Evaluation has the same value.
    torch.testing.assert_close(codebook.eval()(tokens, 0.0).penalty, quantized.penalty)
    assert float(quantized.penalty.detach()) == pytest.approx(1.25 * float(gap.square().mean()), rel=1e-5)


def test_the_decoder_pulls_no_codeword_and_its_gradient_is_copied() -> None:
    torch.manual_seed(0)
    upstream = torch.randn(20, 3)
    for codebook in (GradientCodebook(3, 6, 0.25, 0.9, 0.0), moving(6)):
        tokens = torch.randn(20, 3, requires_grad=True)
        begun(codebook, torch.randn(6, 3)).train()(tokens, 0.0).vectors.backward(upstream)
        assert torch.equal(tokens.grad, upstream)  # type: ignore[arg-type]
        gradient = codebook.underlying._codebook.embed.grad
        assert gradient is None or not gradient.any()


def test_straight_through_copies_the_gradient() -> None:
    tokens, vectors, upstream = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3), torch.randn(5, 3)
    output = straight_through(tokens, vectors)
    torch.testing.assert_close(output, vectors)
    output.backward(upstream)
    assert torch.equal(tokens.grad, upstream)  # type: ignore[arg-type]


def rotated(token: Tensor, vector: Tensor) -> Tensor:
    """One token through a codebook of one codeword with rotated gradients."""
    codebook = begun(moving(1, len(token), rotation=True), vector[None]).train()
    return codebook(token[None], 0.0).vectors[0]


def test_the_rotation_is_the_plane_rotation_of_the_token_onto_its_vector() -> None:
    torch.manual_seed(1)
    token, vector = torch.randn(4), torch.randn(4)
    jacobian = torch.autograd.functional.jacobian(lambda z: rotated(z, vector), token)
    rotation = jacobian * token.norm() / vector.norm()
    identity = torch.eye(4)
    torch.testing.assert_close(rotation @ rotation.T, identity, atol=1e-5, rtol=0)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(jacobian @ token, vector, atol=1e-5, rtol=1e-5)
    plane, _ = torch.linalg.qr(torch.stack([token, vector], dim=1))
    outside = identity - plane @ plane.T
    torch.testing.assert_close(rotation @ outside, outside, atol=1e-5, rtol=0)  # orthogonal to both: left alone


@pytest.mark.parametrize("vector", [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
@pytest.mark.parametrize("start", [[1.0, 0.0], [0.0, 0.0]])
def test_the_rotation_is_finite_for_vanishing_and_opposite_vectors(vector: list[float], start: list[float]) -> None:
    token = torch.tensor(start, requires_grad=True)
    output = rotated(token, torch.tensor(vector))
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(token.grad).all()  # type: ignore[arg-type]
    if any(start):
        torch.testing.assert_close(output, torch.tensor(vector))


@pytest.mark.parametrize("kind", [GradientCodebook, MovingCodebook])
def test_k_means_starts_on_the_first_training_batch(kind: type[VectorCodebook]) -> None:
    tokens, _ = clusters()
    codebook = kind(3, 8, 0.25, 0.9, 0.0)  # type: ignore[call-arg,arg-type]
    torch.manual_seed(0)
    codebook.train()(tokens, 0.0)
    (counts,) = code_counts(codebook.codes(tokens), codebook.sizes)
    for k in range(8):
        if counts[k] > 0:
            chosen = tokens[codebook.codes(tokens)[:, 0] == k]
            torch.testing.assert_close(codebook.table[k].detach(), chosen.mean(0), rtol=1e-2, atol=5e-2)
    # One codeword for all tokens leaves their variance; ten passes leave far less.
    assert float(F.mse_loss(codebook.embed(codebook.codes(tokens)), tokens)) < 0.2 * float(tokens.var(0).mean())


def test_fewer_tokens_than_codes_still_start() -> None:
    codebook = moving(12, restart=0.1).train()
    for _ in range(3):
        codebook(torch.randn(5, 3), 0.0)
    assert torch.isfinite(codebook.table).all()


def test_exponential_means_follow_the_published_recursion() -> None:
    tokens, _ = clusters()
    codebook = moving(decay=0.9, restart=0.0).train()
    codebook(tokens, 0.0)
    state = codebook.underlying._codebook
    counts, sums, table = state.cluster_size[0].clone(), state.embed_avg[0].clone(), codebook.table.clone()
    batch = tokens[:50] + 0.5
    codes = nearest(batch, table)
    codebook(batch, 0.0)
    for k in range(8):
        chosen = batch[codes == k]
        counts[k] = 0.9 * counts[k] + 0.1 * len(chosen)
        sums[k] = 0.9 * sums[k] + 0.1 * chosen.sum(0)
    total = float(counts.sum())
    smoothed = (counts + 1e-5) / (total + 8 * 1e-5) * total
    torch.testing.assert_close(state.cluster_size[0], counts)
    torch.testing.assert_close(codebook.table, sums / smoothed[:, None], rtol=1e-4, atol=1e-5)


def test_the_codebook_used_in_a_step_is_the_one_before_it_moves() -> None:
    tokens, _ = clusters()
    codebook = moving(decay=0.5).train()
    codebook(tokens, 0.0)
    before = codebook.table.clone()
    quantized = codebook(tokens + 1, 0.0)
    torch.testing.assert_close(quantized.vectors, before[quantized.codes[:, 0]], rtol=1e-4, atol=1e-4)
    assert not torch.equal(before, codebook.table)
    expected = 0.25 * F.mse_loss(before[quantized.codes[:, 0]], tokens + 1)
    torch.testing.assert_close(quantized.penalty, expected)


@pytest.mark.parametrize("steps", [0, 1])
def test_evaluation_moves_nothing_and_draws_nothing(steps: int) -> None:
    """Also before the first training batch, where the library would start its k-means."""
    tokens, _ = clusters()
    codebook = moving(restart=0.1).train()
    for _ in range(steps):
        codebook(tokens, 0.0)
    codebook.eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    random = torch.get_rng_state()
    quantized = codebook(tokens + 3, 0.0)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, codebook.state_dict()[name]) for name, value in before.items())
    assert torch.equal(quantized.vectors, codebook.table[quantized.codes[:, 0]])
    gap = F.mse_loss(quantized.vectors, tokens + 3)
    torch.testing.assert_close(quantized.penalty, 0.25 * gap)


@pytest.mark.parametrize("kind", [GradientCodebook, MovingCodebook])
@pytest.mark.parametrize("restart", [0.0, 0.1])
def test_dead_codes_are_put_on_tokens_only_where_restarts_are_on(kind: type[VectorCodebook], restart: float) -> None:
    tokens, _ = clusters()
    table = tokens[:8].clone()
    table[:4] = 1e3
    codebook = begun(kind(3, 8, 0.25, 0.9, restart), table).train()  # type: ignore[call-arg,arg-type]
    torch.manual_seed(0)
    for _ in range(60):
        codebook(tokens, 0.0)
    share = float(usage(code_counts(codebook.codes(tokens), codebook.sizes)))
    assert share == 1 if restart else share <= 0.5
    assert (float(codebook.table.detach().abs().max()) < 100) == (restart > 0)


def test_the_threshold_of_restarts_is_a_share_of_the_mean_count() -> None:
    tokens, _ = clusters(n=800)
    codebook = begun(moving(4, decay=0.999, restart=0.1), torch.tensor([[0.0] * 3, [1.0] * 3, [2.0] * 3, [3.0] * 3]))
    codebook.train()
    before = codebook.table.clone()
    size = codebook.underlying._codebook.cluster_size
    size.copy_(torch.tensor([[19.0, 21.0, 200.0, 200.0]]))  # a tenth of the mean, 800 / 4, is 20
    codebook.underlying._codebook.embed_avg.copy_(before * size[0, :, None])
    codebook(tokens[:1].expand(800, 3) * 0 + 3.0, 0.0)  # all of them choose the last code
    assert torch.equal(codebook.table[0], torch.full((3,), 3.0))
    torch.testing.assert_close(codebook.table[1:3], before[1:3])
    assert float(size[0, 0]) == pytest.approx(40)


def test_a_loaded_codebook_does_not_start_again() -> None:
    tokens, _ = clusters()
    first, second = moving().train(), moving().train()
    first(tokens, 0.0)
    second.load_state_dict(first.state_dict())
    torch.manual_seed(5)
    first(tokens + 1, 0.0)
    torch.manual_seed(5)
    second(tokens + 1, 0.0)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_perplexity_and_usage_have_their_closed_forms() -> None:
    counts = [torch.tensor([2, 2, 4, 0])]
    expected = math.exp(-(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5)))
    assert float(perplexity(counts)) == pytest.approx(expected)
    assert float(usage(counts)) == 0.75
    both = [*counts, torch.tensor([1, 1])]
    assert float(perplexity(both)) == pytest.approx(math.sqrt(2 * expected))
    assert float(usage(both)) == pytest.approx(5 / 6)
    assert float(perplexity([torch.full((7,), 3)])) == pytest.approx(7)


def test_counts_of_slot_combinations_are_those_of_a_dictionary() -> None:
    codes = torch.stack([torch.randint(0, 3, (50,)), torch.randint(0, 4, (50,))], dim=1)
    (counts,) = code_counts(codes, (3, 4))
    for a in range(3):
        for b in range(4):
            assert int(counts[4 * a + b]) == int(((codes[:, 0] == a) & (codes[:, 1] == b)).sum())


def test_more_combinations_than_can_be_listed_are_counted_slot_by_slot() -> None:
    codes = torch.stack([torch.randint(0, 2**16, (50,)), torch.randint(0, 3, (50,))], dim=1)
    first, second = code_counts(codes, (2**16, 3))
    assert first.shape == (2**16,)
    assert int(first.sum()) == 50
    assert second.tolist() == [int((codes[:, 1] == k).sum()) for k in range(3)]
