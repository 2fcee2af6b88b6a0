"""A model as one graph, traced by torch.export: an image to its anomaly map and image score."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from vqlab.detectors import Detector
from vqlab.errors import UserError
from vqlab.features import Backbone
from vqlab.model import Model
from vqlab.nn.prior import REACH, CodePrior
from vqlab.types import Sample


def trace(model: Model, shape: tuple[int, int]) -> ExportedProgram:
    """Return the graph of `ScoringGraph` for network inputs of this shape (H, W).

    Raises UserError if torch.export cannot trace the detector or its backbone.
    """
    graph = ScoringGraph(model.backbone, model.detector)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, on their own deprecations
            return torch.export.export(graph, (torch.zeros(3, *shape),), strict=False)
    except Exception as error:  # the tracer and the detector may raise any error
        name, reason = model.meta["config"]["detector"]["name"], str(error).strip() or repr(error)
        raise UserError(
            f"detector {name} cannot be exported: torch.export must be able to trace its `score`, "
            f"without values of tensors in Python or NumPy ({reason.splitlines()[0][:200]})."
        ) from error


class ScoringGraph(nn.Module):
    """An image (3, H, W) float32 in [0, 1] → its anomaly map (H, W) and its image score ().

    One image, because detectors score images independently; the formats repeat it for a batch.
    """

    def __init__(self, backbone: Backbone, detector: Detector) -> None:
        super().__init__()
        self.backbone = deepcopy(backbone).cpu()
        self.detector = deepcopy(detector).cpu().eval()
        for module in list(self.modules()):
            _fix_flags(module)
            for name, child in module.named_children():
                if isinstance(child, CodePrior):
                    setattr(module, name, TraceablePrior(child))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        images = image[None]
        with _Portable():
            scores = self.detector.score(Sample(images, self.backbone(images)))
        return scores.anomaly_map[0].float(), scores.image_score[0].float()


def _fix_flags(module: nn.Module) -> None:
    """Replace boolean buffers (), which Python branches on, by their values."""
    for name, value in list(module.named_buffers(recurse=False)):
        if value.dtype == torch.bool and value.ndim == 0:
            delattr(module, name)
            setattr(module, name, bool(value))


class _Portable(TorchFunctionMode):
    """Makes code take the path that every format can express.

    No tensor is on a CPU: code that uses NumPy there (`nearest`) then uses torch. `half` rounds
    without a cast, which OpenVINO would omit.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func == torch.Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return False
        if func == torch.Tensor.half:
            return rounded_to_half(*args)
        return func(*args, **(kwargs or {}))


def rounded_to_half(values: Tensor) -> Tensor:
    """Return float32 values rounded to the 11 significant bits of half precision (Veltkamp 1968).

    Differs from a cast for ties, and below 6e-5 by at most 3e-8.
    """
    scaled = values * (2**13 + 1)
    return scaled - (scaled - values)


class TraceablePrior(nn.Module):
    """`CodePrior.surprisal` of one image at a time, without shapes that depend on values.

    Sums look-ups in the table of each tap instead of calling `embedding_bag`, which has no ONNX
    operator.
    """

    def __init__(self, prior: CodePrior) -> None:
        super().__init__()
        self.prior = prior

    def surprisal(self, indices: Tensor, codebook: Tensor) -> Tensor:
        """Return −log p(code | context) in nats of indices (1, h, w), mean over predictors."""
        levels = [self._surprisal(indices, codebook, level) for level in range(len(self.spacings))]
        return torch.stack(levels).mean(0)

    @property
    def spacings(self) -> tuple[int, ...]:
        """Spacing of each predictor's codes."""
        return self.prior.spacings

    def _surprisal(self, indices: Tensor, codebook: Tensor, level: int) -> Tensor:
        _, height, width = indices.shape
        spacing, prior = self.spacings[level], self.prior
        margin = REACH * spacing
        padded = F.pad(indices, (margin,) * 4, value=prior.codebook_size)
        tables = torch.cat([codebook, prior.outside]) @ prior.taps[level]
        place = F.interpolate(prior.position[level][None], (height, width), mode="bilinear")
        hidden = place[0].flatten(1).T
        starts = [step * spacing for step in range(2 * REACH + 1)]
        corners = [(y, x) for y in starts for x in starts if (y, x) != (margin, margin)]
        for (y, x), table in zip(corners, tables, strict=True):
            context = padded[:, y : y + height, x : x + width].flatten()
            hidden = hidden + F.embedding(context, table)
        log_p = F.log_softmax(prior.heads[level](hidden), 1)
        return -log_p.gather(1, indices.flatten()[:, None]).view(indices.shape)
