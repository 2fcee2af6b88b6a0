"""Properties of code surprisal."""

from __future__ import annotations

import torch

from vqlab.nn.surprisal import CodeSurprisal

K, SIZE = 5, (4, 3)


def indices(count: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(count, *SIZE, generator=draw).abs() * 2).long().clamp_max(K - 1)


def fitted(maps: torch.Tensor, spread: float = 0.0, prior: float = 0.5) -> CodeSurprisal:
    part = CodeSurprisal(K, SIZE)
    part.fit(maps.split(7), spread=spread, prior=prior)
    return part


def overall(maps: torch.Tensor) -> torch.Tensor:
    counts = torch.bincount(maps.flatten(), minlength=K) + 1 / K
    return counts / counts.sum()


def test_is_zero_before_fitting() -> None:
    part = CodeSurprisal(K, SIZE)
    assert not part.by_position(indices(2)).any() and not part.by_neighbours(indices(2)).any()


def test_by_position_equals_empirical_frequencies() -> None:
    maps, queries = indices(40), indices(3, seed=1)
    part, share = fitted(maps), overall(maps)
    for image, got in zip(queries, part.by_position(queries), strict=True):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                occurrences = (maps[:, y, x] == image[y, x]).sum()
                p = (occurrences + 0.5 * share[image[y, x]]) / (len(maps) + 0.5)
                torch.testing.assert_close(got[y, x], -p.log(), rtol=1e-4, atol=1e-5)


def test_by_neighbours_equals_empirical_frequencies() -> None:
    maps, queries = indices(40), indices(3, seed=1)
    part, share = fitted(maps), overall(maps)
    for image, got in zip(queries, part.by_neighbours(queries), strict=True):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                parts = []
                for dy, dx in ((0, -1), (0, 1), (-1, 0), (1, 0)):
                    if 0 <= y + dy < SIZE[0] and 0 <= x + dx < SIZE[1]:
                        code, neighbour_code = image[y, x], image[y + dy, x + dx]
                        parts.append(-_share(maps, code, neighbour_code, dy, dx, share).log())
                torch.testing.assert_close(
                    got[y, x], torch.stack(parts).mean(), rtol=1e-4, atol=1e-5
                )


def _share(maps, code, neighbour_code, dy, dx, share):  # type: ignore[no-untyped-def]
    """Return p(code | its neighbour at (dy, dx) is `neighbour_code`) from empirical counts."""
    pairs = [
        (int(maps[n, y, x]), int(maps[n, y + dy, x + dx]))
        for n in range(len(maps))
        for y in range(max(0, -dy), SIZE[0] - max(0, dy))
        for x in range(max(0, -dx), SIZE[1] - max(0, dx))
    ]
    matching = [centre for centre, neighbour in pairs if neighbour == int(neighbour_code)]
    return (matching.count(int(code)) + 0.5 * share[code]) / (len(matching) + 0.5)


def test_spread_raises_the_probability_at_nearby_positions() -> None:
    maps = torch.zeros(20, *SIZE, dtype=torch.int64)
    maps[:, 1, 1] = 3
    queries = torch.zeros(1, *SIZE, dtype=torch.int64)
    queries[0, 1, 2] = 3
    sharp, soft = fitted(maps), fitted(maps, spread=1.0)
    assert soft.by_position(queries)[0, 1, 2] < sharp.by_position(queries)[0, 1, 2] - 1


def test_probabilities_sum_to_one() -> None:
    part = fitted(indices(30), spread=1.0)
    torch.testing.assert_close((-part.position).exp().sum(0), torch.ones(SIZE))
    torch.testing.assert_close((-part.neighbour).exp().sum(2), torch.ones(4, K))
