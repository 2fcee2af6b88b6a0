"""Properties of the quantizer."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vqlab.nn.codebook import ROWS, Codebook, CodebookOptions, kmeans, nearest
from vqlab.nn.quantizer import VectorQuantizer, perplexity


def quantizer(size: int = 16, dim: int = 4, seed: int = 0, **settings: Any) -> VectorQuantizer:
    torch.manual_seed(seed)
    names = {field.name for field in fields(CodebookOptions)} & settings.keys()
    options = CodebookOptions(**{name: settings.pop(name) for name in names})
    return VectorQuantizer(size, dim, options, **settings)


def book(part: VectorQuantizer, level: int = 0) -> Codebook:
    codebook = part.codebooks[level]
    assert isinstance(codebook, Codebook)
    return codebook


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(count: int, dim: int, each: int = 50, seed: int = 2) -> Tensor:
    centres = 10 * noise(count, dim, seed=seed)
    return centres.repeat_interleave(each, 0) + 0.1 * noise(count * each, dim, seed=seed + 1)


# Look-up


@pytest.mark.parametrize("rows", [1, 7, ROWS, 2 * ROWS + 3])
def test_nearest_code_is_the_nearest(rows: int) -> None:
    z, table = noise(rows, 5), noise(33, 5, seed=3)
    by_hand = (z[:, None] - table[None]).square().sum(-1).argmin(1)
    assert torch.equal(nearest(z, table), by_hand)


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (30, 4)])
@pytest.mark.parametrize("levels", [1, 3])
def test_shapes_and_codes_match_indices(shape: tuple[int, ...], levels: int) -> None:
    part = quantizer(levels=levels, init="kmeans")
    out = part(noise(*shape))
    places = (shape[0], *shape[2:])
    expected = places if levels == 1 else (places[0], levels, *places[1:])
    assert out.indices.shape == expected and out.indices.dtype == torch.int64
    assert out.codes.shape == shape
    part.eval()
    out = part(noise(*shape))
    assert torch.equal(part.encode(noise(*shape)), out.indices)
    torch.testing.assert_close(part.lookup(out.indices), out.codes)


def test_losses_equal_the_published_equations() -> None:
    part = quantizer(commitment=0.5).eval()
    z = noise(2, 4, 3, 3).requires_grad_()
    out = part(z)
    error = (z - part.lookup(part.encode(z))).square().mean()
    torch.testing.assert_close(out.codebook, error)
    torch.testing.assert_close(out.commitment, error)
    torch.testing.assert_close(out.loss, 1.5 * error)
    out.loss.backward()
    codes = part.lookup(out.indices)
    assert z.grad is not None
    torch.testing.assert_close(z.grad, 0.5 * 2 * (z - codes).detach() / z.numel())
    vectors = book(part).vectors
    assert vectors.grad is not None
    pull = torch.zeros_like(vectors).index_add_(
        0, out.indices.flatten(), (2 * (codes - z) / z.numel()).movedim(1, -1).reshape(-1, 4)
    )
    torch.testing.assert_close(vectors.grad, pull)


def test_ema_codebook_has_no_gradient() -> None:
    part = quantizer(learning="ema", commitment=0.5)
    out = part(noise(20, 4))
    assert list(part.parameters()) == []
    torch.testing.assert_close(out.loss, 0.5 * out.commitment)
    torch.testing.assert_close(out.codebook, out.commitment)


def test_float32_under_autocast() -> None:
    part = quantizer(init="kmeans", learning="ema").eval()
    part.initialise(noise(100, 4))
    z = noise(40, 4, seed=5)
    plain = part(z)
    with torch.autocast("cpu", torch.bfloat16):
        cast, indices = part(z), part.encode(z)
    assert torch.equal(cast.indices, plain.indices) and torch.equal(indices, plain.indices)
    assert torch.equal(cast.codes, plain.codes) and cast.codes.dtype == torch.float32


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_cosine_ignores_length(learning: str) -> None:
    part = quantizer(distance="cosine", learning=learning, init="kmeans")
    part(noise(200, 4))
    part(noise(200, 4, seed=9))
    part.eval()
    z = noise(50, 4, seed=4)
    length = 10 ** noise(50, 1, seed=5)
    assert torch.equal(part(z).indices, part(z * length).indices)
    torch.testing.assert_close(part(z).codes.norm(dim=1), torch.ones(50))
    by_hand = F.cosine_similarity(z[:, None], book(part).vectors[None], dim=-1).argmax(1)
    assert torch.equal(part(z).indices, by_hand)


def test_residual_levels_reduce_the_error() -> None:
    z, errors = noise(600, 4), []
    for levels in (1, 2, 4):
        part = quantizer(levels=levels, learning="ema", init="kmeans")
        for _ in range(5):
            part(z)
        errors.append(float(F.mse_loss(part.lookup(part.encode(z)), z)))
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


def test_residual_levels_reject_cosine_distance() -> None:
    with pytest.raises(ValueError, match="levels > 1 requires distance"):
        VectorQuantizer(8, 4, CodebookOptions(), levels=2, distance="cosine")


# Gradient estimators


def test_straight_through_gradient_is_the_identity() -> None:
    part = quantizer(learning="ema")
    z, upstream = noise(2, 4, 3, 3).requires_grad_(), noise(2, 4, 3, 3, seed=8)
    part(z).codes.backward(upstream)
    assert z.grad is not None and torch.equal(z.grad, upstream)


def test_rotation_maps_z_to_its_code_and_rotates_the_gradient() -> None:
    part = quantizer(gradient="rotation", init="kmeans").eval()
    part.initialise(noise(100, 4))
    z, upstream = noise(30, 4, seed=6).requires_grad_(), noise(30, 4, seed=7)
    out = part(z)
    codes = part.lookup(out.indices)
    torch.testing.assert_close(out.codes, codes)
    out.codes.backward(upstream)
    assert z.grad is not None
    for start, end, up, got in zip(z.detach(), codes, upstream, z.grad, strict=True):
        turn = _rotation(start / start.norm(), end / end.norm())
        torch.testing.assert_close(turn @ start * end.norm() / start.norm(), end)
        expected = turn.T @ up * end.norm() / start.norm()
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def _rotation(a: Tensor, b: Tensor) -> Tensor:
    """Return the rotation that takes unit vector a to b within their plane, from its angle."""
    cosine = a @ b
    across = F.normalize(b - cosine * a, dim=0)
    sine = b @ across
    plane = torch.stack([a, across], 1)
    inside = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
    return torch.eye(len(a)) - plane @ plane.T + plane @ inside @ plane.T


def test_rotation_is_finite_where_it_is_undefined() -> None:
    part = quantizer(size=2, dim=2, gradient="rotation").eval()
    with torch.no_grad():
        book(part).vectors.copy_(torch.tensor([[1.0, 0.0], [50.0, 50.0]]))
    z = torch.tensor([[0.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    out = part(z)
    torch.testing.assert_close(out.codes, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    out.codes.sum().backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())


# Learning


def test_gradient_codebook_is_initialized_uniformly_and_learns() -> None:
    part = quantizer(size=50, dim=64)
    vectors = book(part).vectors
    assert bool(part.initialised) and isinstance(vectors, torch.nn.Parameter)
    assert 0.9 / 50 < float(vectors.detach().abs().max()) <= 1.001 / 50


def test_moving_averages_equal_the_closed_form() -> None:
    part = quantizer(size=6, learning="ema", init="kmeans", decay=0.9)
    batches = [noise(80, 4, seed=seed) for seed in range(4)]
    part.initialise(batches[0])
    codebook = book(part)
    members = torch.bincount(part.encode(batches[0]), minlength=6).float()
    assert torch.equal(codebook.counts, members) and bool((members > 0).all())
    counts, sums = codebook.counts.clone(), codebook.vectors * members[:, None]
    for z in batches[1:]:
        one_hot = F.one_hot(part.encode(z), 6).float()
        counts = 0.9 * counts + 0.1 * one_hot.sum(0)
        sums = 0.9 * sums + 0.1 * one_hot.T @ z
        part(z)
        torch.testing.assert_close(codebook.counts, counts)
        torch.testing.assert_close(codebook.vectors, sums / counts[:, None])


@pytest.mark.parametrize("init", ["random", "kmeans"])
def test_moving_averages_are_initialized_from_the_data(init: str) -> None:
    """Counts initialised with 0 move unused codes far away at the first step."""
    part = quantizer(size=32, learning="ema", init=init)
    z = noise(64, 4)
    part(z)
    before = book(part).vectors.clone()
    part(z)
    assert float(book(part).vectors.norm(dim=1).max()) <= float(z.norm(dim=1).max())
    assert float((book(part).vectors - before).norm(dim=1).max()) < 0.2


def test_unused_code_does_not_move() -> None:
    part = quantizer(size=2, dim=2, learning="ema", decay=0.5)
    codebook = book(part)
    start = torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    codebook.vectors.copy_(start)
    codebook.sums.copy_(start)
    for _ in range(300):
        part(0.1 * noise(10, 2))
    torch.testing.assert_close(codebook.vectors[1], start[1])
    part(torch.full((10, 2), 90.0))
    torch.testing.assert_close(codebook.vectors[1], torch.full((2,), 90.0))


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_restarted_code_is_not_undone(learning: str) -> None:
    """A restart that does not reset count and sum is undone by the next average."""
    part = quantizer(size=8, dim=4, learning=learning, restart=0.1)
    codebook = book(part)
    z = clusters(8, 4)
    with torch.no_grad():
        codebook.vectors.copy_(1000 + noise(8, 4))
        codebook.vectors[0] = 0
        if learning == "ema":
            codebook.sums.copy_(codebook.vectors)
    for _ in range(200):  # until seven codes count as dead
        if bool((codebook.vectors[1:] < 500).all()):
            break
        part(z)
    restarted = codebook.vectors.detach().clone()
    assert float(restarted.max()) < 100
    for _ in range(30):
        part(z)
    assert float(codebook.vectors.detach().max()) < 100
    moved = (codebook.vectors.detach() - restarted)[1:].norm(dim=1)
    assert float(moved.max()) < 14  # half the distance between two clusters
    assert float(part.pop_usage().perplexity) > 3  # type: ignore[union-attr]


def test_restart_takes_effect_in_the_same_step() -> None:
    part = quantizer(size=4, dim=2, learning="ema", restart=0.5)
    codebook = book(part)
    codebook.vectors.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [99.0, 0.0], [0.0, 99.0]]))
    codebook.counts.copy_(torch.tensor([10.0, 10.0, 0.1, 0.1]))
    codebook.sums.copy_(codebook.vectors * codebook.counts[:, None])
    out = part(torch.tensor([[5.0, 5.0], [-5.0, 5.0]]))
    assert sorted(out.indices.tolist()) == [2, 3]
    assert float(out.commitment) == 0


def test_restart_keeps_codes_in_use() -> None:
    part = quantizer(size=8, learning="ema", init="kmeans", restart=0.05)
    z = clusters(8, 4)
    part.initialise(z)
    before = book(part).vectors.clone()
    dead = book(part).counts < 0.05 * book(part).counts.mean()
    part(z)
    torch.testing.assert_close(book(part).vectors[~dead], before[~dead], atol=0.5, rtol=0)


def test_kmeans_beats_random_initialisation() -> None:
    z = clusters(12, 4)

    def error(init: str) -> float:
        part = quantizer(init=init, learning="ema")
        part(z)
        return float(F.mse_loss(part.lookup(part.encode(z)), z))

    assert error("kmeans") < 0.1 * error("random")


def test_kmeans_centres_are_the_means_of_their_members() -> None:
    torch.manual_seed(0)
    z = clusters(5, 3)
    centres = kmeans(z, 5, iterations=30)
    index = nearest(z, centres)
    for code in index.unique():
        torch.testing.assert_close(centres[code], z[index == code].mean(0))


@pytest.mark.parametrize("rows", [1, 3])
def test_kmeans_with_fewer_vectors_than_codes(rows: int) -> None:
    part = quantizer(size=16, learning="ema", init="kmeans", restart=0.1)
    z = noise(rows, 4)
    for _ in range(3):
        out = part(z)
    torch.testing.assert_close(out.codes, z)
    assert bool(book(part).vectors.isfinite().all())


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_learning_lowers_the_error(learning: str) -> None:
    part = quantizer(learning=learning, init="random", decay=0.9)
    z = clusters(1, 4) - 5
    optimizer = torch.optim.SGD(part.parameters(), 1.0) if learning == "gradient" else None
    first = float(part(z).codebook)
    for _ in range(60):
        loss = part(z).loss
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert float(part(z).codebook) < 0.05 * first


# State


@pytest.mark.parametrize("training", [True, False])
def test_only_forward_in_training_mode_changes_the_state(training: bool) -> None:
    part = quantizer(learning="ema", init="kmeans", restart=0.1)
    part(noise(90, 4))
    part.pop_usage()
    part.train(training)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    part.encode(noise(90, 4, seed=3))
    part.lookup(torch.zeros(3, 3, 3, dtype=torch.int64))
    if not training:
        part(noise(90, 4, seed=3))
    assert all(torch.equal(before[name], value) for name, value in part.state_dict().items())
    assert part.pop_usage() is None
    if training:
        part(noise(90, 4, seed=3))
        assert not torch.equal(before["codebooks.0.vectors"], book(part).vectors)


@pytest.mark.parametrize("learning", ["gradient", "ema"])
@pytest.mark.parametrize("levels", [1, 2])
def test_state_round_trip(learning: str, levels: int) -> None:
    options = {"learning": learning, "levels": levels, "init": "kmeans", "restart": 0.1}
    part, loaded = quantizer(**options), quantizer(seed=5, **options)
    part(noise(90, 4))
    loaded.load_state_dict(part.state_dict())
    assert bool(loaded.initialised)
    torch.manual_seed(3)
    result = part(noise(90, 4, seed=3))
    torch.manual_seed(3)
    two = loaded(noise(90, 4, seed=3))
    assert torch.equal(result.codes, two.codes) and torch.equal(result.indices, two.indices)
    for name, value in part.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_same_seed_same_result(learning: str) -> None:
    def run() -> tuple[Tensor, dict[str, Tensor]]:
        part = quantizer(learning=learning, init="kmeans", restart=0.3)
        out = [part(noise(70, 4, seed=seed)).codes for seed in range(5)]
        return torch.stack(out), part.state_dict()

    (codes, state), (repeated_codes, repeated_state) = run(), run()
    assert torch.equal(codes, repeated_codes)
    assert all(torch.equal(state[name], repeated_state[name]) for name in state)


# Usage


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(any))
def test_perplexity_lies_within_1_and_k(counts: list[int]) -> None:
    value = float(perplexity(torch.tensor(counts)))
    used = sum(count > 0 for count in counts)
    assert 1 - 1e-9 <= value <= used + 1e-9


def test_perplexity_equals_manual_calculation() -> None:
    assert float(perplexity(torch.tensor([5, 0, 0]))) == 1
    assert float(perplexity(torch.tensor([7] * 12))) == pytest.approx(12)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(perplexity(torch.tensor([1, 3]))) == pytest.approx(math.exp(entropy))


def test_pop_usage_counts_training_assignments_and_resets() -> None:
    part = quantizer(levels=2, init="kmeans")
    assert part.pop_usage() is None
    first, second = part(noise(50, 4)).indices, part(noise(30, 4, seed=3)).indices
    usage = part.pop_usage()
    assert usage is not None
    assigned = torch.cat([first, second])
    for level in range(2):
        expected = torch.bincount(assigned[:, level], minlength=16)
        assert torch.equal(usage.histogram[level], expected)
    assert usage.dead == int((usage.histogram == 0).sum())
    assert usage.perplexity == pytest.approx(float(perplexity(usage.histogram).mean()))
    assert part.pop_usage() is None
