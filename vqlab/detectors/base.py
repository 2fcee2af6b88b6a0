"""The interface of a detector, and the registry of detectors by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.plugins import VARIABLE, load_plugins
from vqlab.types import InputSpec, Sample, Scores, UserError


class Detector(nn.Module, ABC):
    """Learns from normal images only; scores images and localises defects.

    `score` depends neither on batch mates nor on `self.training`, and has no side effect. All state
    that scoring needs is in parameters and buffers. For optional methods see
    `vqlab.detectors.capabilities`.
    """

    Config: ClassVar[type[Settings]] = Settings
    """Class of its settings; an optional nested section `scoring` holds the settings that may
    change without retraining."""
    image_scoring: ClassVar[frozenset[str]] = frozenset({"image_score", "top"})
    """Settings of `scoring` that change the image score but not the map."""

    any_shape: ClassVar[bool] = False
    """Whether images may have any shape, different ones in different samples
    (`data.resize=aspect`), not only that of the spec."""

    config: Any
    """An instance of `Config`."""

    def __init__(self, config: Settings, spec: InputSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """Return `loss`, a scalar to minimise, and named terms, each a scalar.

        All are means over the images, so that several processes can share a batch; use
        `vqlab.nn.distributed` for anything else that depends on the whole batch or on random
        numbers.
        """

    @abstractmethod
    def score(self, sample: Sample) -> Scores:
        """Return anomaly maps (B, H, W) and image scores (B,); higher is more anomalous."""

    def prepare(self, samples: Iterable[Sample]) -> None:  # noqa: B027  (optional)
        """Fit parts that are not learned by gradient, such as a memory bank, before the first
        epoch."""

    def calibrate(  # noqa: B027  (optional)
        self, train: Iterable[Sample], held_out: Iterable[Sample], effort: float = 1.0
    ) -> None:
        """Fit the statistics that `score` needs to normal images, after training.

        `train` yields most of the training images and `held_out` the others; images that thresholds
        are chosen on are in neither. Both may be iterated several times. Repeated calls replace
        the statistics. `effort` is the share of the work to spend, below 1 for an evaluation during
        training.
        """

    def health(self) -> dict[str, float]:
        """Return training diagnostics, such as `codebook/perplexity`, and reset them; called once
        per epoch."""
        return {}


_REGISTER: dict[str, type[Detector]] = {}
D = TypeVar("D", bound=type[Detector])
_MODULES = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}


def _import_built_in(name: str) -> None:
    """Import the module of a built-in detector, unless there is none or it is being imported."""
    if name in _MODULES:
        importlib.import_module(f"{__package__}.{name}")


def _load_all() -> None:
    """Import the modules of all built-in detectors, then those of third parties."""
    for name in sorted(_MODULES):
        _import_built_in(name)
    load_plugins()


def register(name: str) -> Callable[[D], D]:
    """Register a detector class as `name`. Raises ValueError if another detector has this name."""

    def add(kind: D) -> D:
        _import_built_in(name)
        if name in _REGISTER:
            owner = _REGISTER[name]
            raise ValueError(
                f"detector name {name!r} is already registered by "
                f"{owner.__module__}.{owner.__qualname__}."
            )
        _REGISTER[name] = kind
        return kind

    return add


def detector_class(name: str) -> type[Detector]:
    """Return the class registered as `name`. Raises UserError with similar names."""
    if name not in _REGISTER:
        _import_built_in(name)
    if name not in _REGISTER:
        _load_all()
    if name not in _REGISTER:
        near = difflib.get_close_matches(name, _REGISTER, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"available: {', '.join(names())}."
        raise UserError(
            f"setting detector.name: there is no detector {name!r}; {hint} For a third-party "
            f"detector, set {VARIABLE} to its file."
        )
    return _REGISTER[name]


def names() -> list[str]:
    """Return the names of all registered detectors, sorted."""
    _load_all()
    return sorted(_REGISTER)
