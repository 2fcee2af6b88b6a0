"""Convolutions of many channels, on a CPU by minimal filtering (`vqlab.nn.minimal_filtering`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn.minimal_filtering import convolve


class Conv3x3(nn.Module):
    """`nn.Conv2d(inputs, outputs, 3, padding=1)` of maps and vectors that are equal everywhere.

    The input channels are those of x (B, C, h, w), then those of `constant` (B, D), which has the
    same value at every position: the products with it are computed once per image. The weight is
    (3, 3, inputs, outputs); state dicts have that of `nn.Conv2d`, (outputs, inputs, 3, 3).
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        start = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.weight = nn.Parameter(taps_first(start.weight.data).contiguous())
        self.bias = start.bias
        self.register_state_dict_post_hook(_save_outputs_first)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_load_taps_first)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, constant: Tensor | None = None) -> Tensor:
        """Return maps (B, outputs, h, w)."""
        if fast(x, self.weight):
            out = convolve(x, self.weight, 1, constant)
            return out if self.bias is None else out + self.bias[:, None, None]
        if constant is not None:
            x = torch.cat([x, constant[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        return F.conv2d(x, outputs_first(self.weight), self.bias, padding=1)


def taps_first(weight: Tensor) -> Tensor:
    """Return a view (3, 3, C, O) of the weight (O, C, 3, 3) of a convolution."""
    return weight.permute(2, 3, 1, 0)


def outputs_first(weight: Tensor) -> Tensor:
    """Return a view (O, C, 3, 3) of a weight (3, 3, C, O)."""
    return weight.permute(3, 2, 0, 1)


def in_layout_of(weight: Tensor, saved: Tensor) -> Tensor:
    """Return a tensor saved for a weight, (3, 3, C, O) also if it was saved as (O, C, 3, 3)."""
    if saved.ndim == 4 and saved.shape != weight.shape == taps_first(saved).shape:
        return taps_first(saved).contiguous()
    return saved


def _save_outputs_first(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = outputs_first(state[f"{prefix}weight"])


def _load_taps_first(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}weight" in state:
        state[f"{prefix}weight"] = taps_first(state[f"{prefix}weight"])


def fast(x: Tensor, weight: Tensor) -> bool:
    """Whether minimal filtering applies: on a CPU in float32 or float64, not in a traced graph."""
    wide = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return wide and x.is_cpu and not torch.is_autocast_enabled("cpu") and not traced()


def traced() -> bool:
    """Whether operations are being recorded for another engine."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
