"""The settings of a run: the sections of a recipe, resolved and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqlab.config import Settings, digest, dump, flatten, validate
from vqlab.data import DataSettings, choose_categories
from vqlab.detectors import detector_class
from vqlab.evaluation import EvaluationSettings, ThresholdSettings
from vqlab.features import FeatureSettings, choose_backbone
from vqlab.training import TrainingSettings
from vqlab.types import UserError

BEST_ON_TEST = "best_on_test"
"""Where metrics are filed that the test set had a hand in; neither promotion nor the leaderboard
looks there."""

TRAINED_TAG = "vqlab.trained"
"""Tag of a run: its `trained_key`."""
REUSED_TAG, SAVED_TAG = "vqlab.reused", "vqlab.seconds_saved"
"""Tags of a run: what it did not work out again, and the seconds by the clock that this spared."""
TRAINING_TAG = "vqlab.training_seconds"
"""Tag of a run: by the clock, of the process that ended its training."""
_NOT_TRAINED = (
    "data.root", "data.good", "data.bad", "data.mm_per_pixel", "training.device",
    "training.threads",
)  # fmt: skip
_AFTERWARDS = ("detector.scoring.", "threshold.", "evaluation.")


class RunConfig(Settings):
    """The settings of one run, whole and resolved."""

    data: DataSettings = DataSettings()
    features: FeatureSettings = FeatureSettings()
    detector: dict[str, Any]
    training: TrainingSettings = TrainingSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def test_split(self) -> str:
        """What the test metrics are filed under: not `test` where the test set chose the epoch."""
        return BEST_ON_TEST if self.training.select == BEST_ON_TEST else "test"


def reused_tags(what: str, seconds: float) -> dict[str, str]:
    """The tags that say what a run did not work out again."""
    return {REUSED_TAG: what, SAVED_TAG: f"{seconds:.2f}"}


def trained_key(config: RunConfig, fingerprint: str) -> str:
    """The same for all settings that train the same detector on the same images (of that
    fingerprint): what scores, thresholds and measures it afterwards does not count."""
    unseen = set(_NOT_TRAINED)
    if config.training.select == "last":
        unseen.add("training.validate_every")
    kept = {
        name: value
        for name, value in flatten(dump(config)).items()
        if name not in unseen and not name.startswith(_AFTERWARDS)
    }
    return digest([kept, fingerprint])


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """Return a recipe's tree as settings: defaults filled in, the backbone `auto` replaced.

    Raises UserError, a sentence per fault.
    """
    section = tree.get("detector", {})
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping) or not isinstance(section.get("name", "vqvae"), str):
        raise UserError(f"setting detector must be a section with a name; got {section!r}.")
    name = section.get("name", "vqvae")
    rest = {key: value for key, value in section.items() if key != "name"}
    settings = validate(detector_class(name).Config, rest, "detector.")
    config = validate(RunConfig, {**tree, "detector": {"name": name, **dump(settings)}})
    features = choose_backbone(config.features, config.data.image_size)
    return config.model_copy(update={"features": features})


def model_configs(config: RunConfig) -> list[RunConfig]:
    """One configuration per model to train: per category, or one for all (`data.joint`)."""
    names = choose_categories(config.data)
    groups = [names] if config.data.joint else [(name,) for name in names]
    return [
        config.model_copy(update={"data": config.data.model_copy(update={"categories": group})})
        for group in groups
    ]
