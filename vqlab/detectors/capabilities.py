"""Optional methods of a detector: small protocols, checked by isinstance.

`extract` does the expensive part once; scores, panels, prototypes and alternative scores are
derived from its output. The functions `extract`, `scores` and `can_rescore` work with any detector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from vqlab.config import Settings
from vqlab.types import Sample, Scores

Extracted: TypeAlias = tuple[Tensor, ...]
"""Opaque intermediate outputs of a detector: tensors (B, …). Of a detector without `extract`, the
image and the levels of the pyramid."""


@dataclass(frozen=True)
class ImagePrototypes:
    """The image-level codes of B images."""

    indices: Tensor
    """Index of each image's prototype in the codebook, int64 (B,)."""
    vectors: Tensor
    """Image vectors before quantisation, (B, D)."""
    codebook: Tensor
    """All prototypes, (K, D)."""


class Scorer(Protocol):
    """The part of a detector that scores images."""

    def score(self, sample: Sample) -> Scores: ...


@runtime_checkable
class Rescorable(Protocol):
    """Splits scoring into two parts, `score(sample) == scores(extract(sample))`, so that other
    settings of `scoring` do not need another forward pass."""

    def extract(self, sample: Sample) -> Extracted:
        """Compute everything that does not depend on `scoring`: tensors (B, …)."""

    def scores(self, extracted: Extracted) -> Scores:
        """Return the scores by the current `scoring`, as `score`."""

    @classmethod
    def can_rescore(cls, calibrated: Settings, new: Settings) -> bool:
        """Return whether a detector calibrated with one `scoring` gives the maps of another after
        `fit_normalization` alone (or directly, if it has none)."""


@runtime_checkable
class HasNormalization(Protocol):
    """Fits the part of `calibrate` that depends on the current `scoring` to extracted outputs.

    Other detectors are calibrated again after a change of `scoring`.
    """

    def fit_normalization(self, extracted: Iterable[Extracted]) -> None:
        """Fit statistics to normal images held out from all other fitting."""


@runtime_checkable
class LimitedByImages(Protocol):
    """Has settings that must suit the number of training images."""

    @classmethod
    def limit(cls, config: Settings, images: int) -> Settings:
        """Return the settings to use with this number of training images, or tiles."""


@runtime_checkable
class HasPanels(Protocol):
    """Offers pictures of its intermediate outputs."""

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        """Return pictures by title: (B, 3, H, W) in [0, 1], or integer code maps (B, h, w)."""


@runtime_checkable
class HasCodeMaps(Protocol):
    """Has code maps among its panels."""

    def codebook_sizes(self) -> dict[str, int]:
        """Return the number of codes by the title of each code map."""


@runtime_checkable
class HasPrototypes(Protocol):
    """Has a codebook of image-level codes."""

    def prototypes(self, extracted: Extracted) -> ImagePrototypes | None:
        """Return the prototype of each image; None if the settings disable the codebook."""

    def extract_prototypes(self, sample: Sample) -> ImagePrototypes | None:
        """Return `prototypes(extract(sample))` without computing the rest."""


@runtime_checkable
class HasAlternatives(Protocol):
    """Offers other scores, such as a published one, for comparison."""

    def alternatives(self, extracted: Extracted) -> dict[str, Scores]:
        """Return these scores by name."""


def extract(detector: Scorer, sample: Sample) -> Extracted:
    """Return the outputs from which scores, panels and prototypes are derived."""
    if isinstance(detector, Rescorable):
        return detector.extract(sample)
    return (sample.image, *sample.pyramid)


def scores(detector: Scorer, extracted: Extracted) -> Scores:
    """Return the scores of extracted outputs."""
    if isinstance(detector, Rescorable):
        return detector.scores(extracted)
    return detector.score(Sample(extracted[0], extracted[1:]))


def can_rescore(kind: type[Scorer], calibrated: Settings, new: Settings) -> bool:
    """Return `kind.can_rescore`, or whether the settings are equal if it has none."""
    if issubclass(kind, Rescorable):
        return kind.can_rescore(calibrated, new)
    return calibrated == new
