"""Batch normalisation synchronised over ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqlab.nn import distributed
from vqlab.nn.precision import without_autocast


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over rows (N, C) of all ranks; `nn.SyncBatchNorm` supports CUDA only."""

    def forward(self, rows: Tensor) -> Tensor:
        count = distributed.count_rows(rows)
        if not self.training or count == len(rows):
            normed: Tensor = super().forward(rows)
            return normed
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with without_autocast(rows.device):
            wide = rows.float()
            mean = distributed.all_reduce_sum(wide.sum(0)) / count
            centred = wide - mean
            variance = distributed.all_reduce_sum(centred.square().sum(0)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            scaled = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
            return scaled.to(rows.dtype)
