"""The interface of a detector, and the register through which one is found by name."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.plugins import VARIABLE, load_plugins
from vqlab.types import InputSpec, Pyramid, Scores, UserError

Reading: TypeAlias = tuple[Tensor, ...]
"""What a detector read in images, its own affair; tensors (B, …)."""


@dataclass(frozen=True)
class ImagePrototypes:
    """What images are of, as far as a codebook of image-level codes can tell."""

    indices: Tensor
    """Of each image's prototype in the codebook, int64 (B,)."""
    vectors: Tensor
    """What was quantised, (B, D)."""
    codebook: Tensor
    """All prototypes, (K, D)."""


class Detector(nn.Module, ABC):
    """Learns from pyramids of normal images only; scores and localises defects.

    It does not own the training loop, the data loader, files, tracking or labels. `score` depends
    neither on batch mates nor on `self.training`, and has no side effect.
    All state that scoring needs lives in parameters and buffers, so a state dict is the detector.
    """

    Config: ClassVar[type[Settings]] = Settings
    """Its settings; a nested section `scoring`, where there is one, holds what may change without
    retraining."""
    image_scoring: ClassVar[frozenset[str]] = frozenset({"image_score", "top"})
    """Of `scoring`: what makes an image score of the map and leaves the map as it is."""

    config: Any
    """The settings that it was built with, a `Config`."""

    def __init__(self, config: Settings, spec: InputSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def loss(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """`loss`, a scalar to minimise, and named terms, each a scalar.

        All are means over the images, so that several processes may share a batch: what else looks
        at the whole of it, or draws for it, does so by `vqlab.nn.distributed`.
        """

    @abstractmethod
    def score(self, pyramid: Pyramid) -> Scores:
        """Anomaly maps (B, H, W) and image scores (B,); higher is more anomalous."""

    def read(self, pyramid: Pyramid) -> Reading:
        """What `score` computes before `scoring` matters: the costly part, tensors (B, …).

        A detector that parts its score so has `score(p) = scores_of(read(p))`, and can then be
        scored with hundreds of settings for the price of reading the images once.
        """
        return pyramid

    def scores_of(self, reading: Reading) -> Scores:
        """The scores of what was read, by the present `scoring`."""
        return self.score(reading)

    def settle(self, readings: Iterable[Reading]) -> None:  # noqa: B027  (optional)
        """The last part of `calibrate`: fit what depends on the present `scoring` to readings of
        normal images that nothing else was fitted to."""

    @classmethod
    def rescorable(cls, calibrated: Settings, wanted: Settings) -> bool:
        """Whether a detector calibrated by one `scoring` section needs only `settle` for maps by
        another; where not, it must be calibrated again. A detector that does not `settle` is
        calibrated again in any case before another scoring is kept."""
        return calibrated == wanted

    def alternatives(self, pyramid: Pyramid) -> dict[str, Scores]:
        """Other scores by name, reported beside `score` (a published one, say)."""
        return {}

    def prepare(self, pyramids: Iterable[Pyramid]) -> None:  # noqa: B027  (optional)
        """Once before the first epoch: fit what is not learned by gradient (a memory bank)."""

    def calibrate(  # noqa: B027  (optional)
        self, train: Iterable[Pyramid], rest: Iterable[Pyramid], effort: float = 1.0
    ) -> None:
        """Once training ended: fit the statistics that `score` needs, on normal images only.

        `train` yields most of the images trained on; `rest` yields the others, which are not
        in what is fitted to `train`. The images that thresholds come from are in neither, so that
        they meet the score as new ones do. Both may be iterated several times. Calling it again
        replaces what it fitted. `effort` is the share of the work to spend, below 1 for a
        judgement while training.
        """

    def health(self) -> dict[str, float]:
        """What to watch while training, e.g. `codebook/perplexity`; read and reset each epoch."""
        return {}

    def panels(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """Pictures by title: (B, 3, H, W) in [0, 1], or maps of codes (B, h, w), integers."""
        return {}

    def codebook_sizes(self) -> dict[str, int]:
        """How many codes there are, by the title of each map of codes in `panels`."""
        return {}

    def prototypes_of(self, pyramid: Pyramid) -> ImagePrototypes | None:
        """The image-level code of each image; none where the detector has no such codebook.

        Depends neither on batch mates nor on `self.training`, and has no side effect, as `score`.
        """
        return None


_REGISTER: dict[str, type[Detector]] = {}
D = TypeVar("D", bound=type[Detector])


def register(name: str) -> Callable[[D], D]:
    """Class decorator: make a detector known as `name`. Raises ValueError for a taken name."""

    def add(kind: D) -> D:
        if name in _REGISTER:
            owner = _REGISTER[name]
            raise ValueError(
                f"detector name {name!r} is taken by {owner.__module__}.{owner.__qualname__}."
            )
        _REGISTER[name] = kind
        return kind

    return add


def detector_class(name: str) -> type[Detector]:
    """The class registered as `name`. Raises UserError that names the close matches."""
    if name not in _REGISTER:
        load_plugins()
    if name not in _REGISTER:
        near = difflib.get_close_matches(name, _REGISTER, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names())}."
        raise UserError(
            f"setting detector.name: there is no detector {name!r}; {hint} A detector of your own "
            f"is found where {VARIABLE} names its file."
        )
    return _REGISTER[name]


def names() -> list[str]:
    """The names of all registered detectors, sorted."""
    load_plugins()
    return sorted(_REGISTER)
