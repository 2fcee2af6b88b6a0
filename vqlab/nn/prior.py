"""Learned prior over code maps: the probability of a code given surrounding codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 2
"""A predictor sees (2 · REACH + 1)² codes, without the centre."""
HIDDEN = 128
MASKED = 0.5
"""Fraction of codes masked in training (like codes outside the map), against overfitting."""
PLACES = 16
"""Side of the learned position embedding, which is resized to the code map."""


class CodePrior(nn.Module):
    """p(code | surrounding codes, position): one blind-spot predictor per spacing.

    The predictor of spacing d sees a 5 × 5 grid of codes, d apart, without the centre. Adjacent
    codes share pixels with the predicted one, so a defect would predict itself; a wide blind spot
    prevents that. The first layer is a dilated convolution of the quantised map, computed as a sum
    of embedding rows (a code has only K values).

    codebook_size: K; dim: D, the length of a code; spacings: in codes.
    """

    def __init__(self, codebook_size: int, dim: int, spacings: Sequence[int]) -> None:
        super().__init__()
        self.codebook_size, self.spacings = codebook_size, tuple(spacings)
        levels, taps = len(self.spacings), (2 * REACH + 1) ** 2 - 1
        self.outside = nn.Parameter(torch.empty(1, dim))
        """Embedding of masked codes and of codes outside the map."""
        self.taps = nn.Parameter(torch.empty(levels, taps, dim, HIDDEN))
        self.position = nn.Parameter(torch.empty(levels, HIDDEN, PLACES, PLACES))
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, codebook_size)
            )
            for _ in self.spacings
        )
        self.requires_grad_(False)  # trained by `fit` only
        self.reset()

    def reset(self) -> None:
        """Reset all parameters."""
        nn.init.zeros_(self.outside)
        nn.init.zeros_(self.position)
        nn.init.normal_(self.taps, std=1 / math.sqrt(self.taps[0, :, :, 0].numel()))
        for layer in self.heads.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def fit(
        self,
        indices: Tensor,
        codebook: Tensor,
        *,
        steps: int = 200,
        batch_size: int = 8,
        places: int = 2048,
        rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        """Fit from scratch to code maps (N, h, w), any integer type; codebook (K, D) is constant.

        Each step uses at most `places` random positions of `batch_size` maps. Deterministic: the
        global random state is neither used nor changed.
        """
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self.reset()
            self.requires_grad_(True)
            optimizer = torch.optim.AdamW(self.parameters(), rate, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for _ in range(steps):
                chosen = torch.randint(len(indices), (batch_size,)).to(indices.device)
                loss = self._loss(indices[chosen].long(), codebook, places)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            self.requires_grad_(False)
            optimizer.zero_grad(set_to_none=True)

    def _loss(self, indices: Tensor, codebook: Tensor, places: int) -> Tensor:
        flat, total = indices.flatten(), codebook.new_zeros(())
        places = min(places, flat.numel())
        hidden = (torch.rand(indices.shape) < MASKED).to(indices.device)
        masked = indices.masked_fill(hidden, self.codebook_size)
        for level in range(len(self.spacings)):
            where = torch.randint(flat.numel(), (places,)).to(indices.device)
            total = total + F.cross_entropy(
                self.logits(masked, codebook, where, level), flat[where]
            )
        return total

    @torch.no_grad()
    def surprisal(self, indices: Tensor, codebook: Tensor) -> Tensor:
        """Return −log p(code | context) in nats of indices (B, h, w), mean over predictors."""
        maps = []
        for image in indices.unsqueeze(1):  # one by one: bounded memory, no batch effects
            where = torch.arange(image.numel(), device=image.device)
            levels = [
                F.cross_entropy(
                    self.logits(image, codebook, where, level), image.flatten(), reduction="none"
                )
                for level in range(len(self.spacings))
            ]
            maps.append(torch.stack(levels).mean(0))
        return torch.stack(maps).view(indices.shape)

    def logits(self, indices: Tensor, codebook: Tensor, where: Tensor, level: int) -> Tensor:
        """Return logits (P, K) at flat positions `where` (P,) = (b · h + y) · w + x."""
        _, height, width = indices.shape
        spacing = self.spacings[level]
        margin = REACH * spacing
        padded = F.pad(indices, (margin,) * 4, value=self.codebook_size)
        y, x = where // width % height, where % width
        stride = width + 2 * margin
        start = (where // (height * width) * (height + 2 * margin) + y + margin) * stride
        steps = range(-margin, margin + 1, spacing)
        around = [row * stride + column for row in steps for column in steps if row or column]
        offsets = torch.tensor(around, device=indices.device)
        surrounding = padded.flatten()[(start + x + margin)[:, None] + offsets]
        rows = torch.cat([codebook.detach(), self.outside])
        table = (rows @ self.taps[level]).flatten(0, 1)
        surrounding = surrounding + torch.arange(len(offsets), device=indices.device) * len(rows)
        place = F.interpolate(
            self.position[level][None], (height, width), mode="bilinear", align_corners=False
        )
        embedded = F.embedding(y * width + x, place[0].flatten(1).t())
        hidden = F.embedding_bag(surrounding, table, mode="sum") + embedded
        scores: Tensor = self.heads[level](hidden)
        return scores
