"""Settings of a run: the sections of a recipe, resolved and validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqlab.config import Settings, digest, dump, flatten, validate
from vqlab.data import AREA_FILES, DataSettings, TileSettings, choose_categories
from vqlab.detectors import detector_class
from vqlab.evaluation import EvaluationSettings, ThresholdSettings
from vqlab.features import FeatureSettings, InferenceSettings, choose_backbone
from vqlab.training import TrainingSettings
from vqlab.types import UserError

BEST_ON_TEST = "best_on_test"
"""Prefix of test metrics if the test set selected the epoch; promotion and leaderboard ignore
them."""

TRAINED_TAG = "vqlab.trained"
"""Tag of a run: its `trained_key`."""
THRESHOLD_OF = "vqlab.threshold_of"
"""Tag of a run with the model of another run, whose ID it holds, and other thresholds."""
REUSED_TAG, SAVED_TAG = "vqlab.reused", "vqlab.seconds_saved"
"""Tags of a run: the reused results, and the time saved."""
TRAINING_TAG = "vqlab.training_seconds"
"""Tag of a run: training time of the process that finished the training."""
_NOT_TRAINED = (
    "data.root", "data.good", "data.bad", "data.mm_per_pixel", "training.device",
    "training.threads",
)  # fmt: skip
_AFTER_TRAINING = ("detector.scoring.", "threshold.", "evaluation.", "inference.")


class RunConfig(Settings):
    """The resolved settings of one run."""

    data: DataSettings = DataSettings()
    features: FeatureSettings = FeatureSettings()
    detector: dict[str, Any]
    training: TrainingSettings = TrainingSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    inference: InferenceSettings = InferenceSettings()

    @property
    def test_split(self) -> str:
        """Prefix of test metrics: `test`, or `best_on_test` if the test set selected the epoch."""
        return BEST_ON_TEST if self.training.select == BEST_ON_TEST else "test"


def reused_tags(results: str, seconds: float) -> dict[str, str]:
    """Return the tags for reused results."""
    return {REUSED_TAG: results, SAVED_TAG: f"{seconds:.2f}"}


def trained_key(config: RunConfig, fingerprint: str) -> str:
    """Return a digest of the settings that determine training, and of the images (fingerprint).

    Settings of scoring, thresholds and evaluation have no effect.
    """
    ignored = set(_NOT_TRAINED)
    if config.training.select == "last":
        ignored.add("training.validate_every")
    if config.data.tiles.size is None:  # keys of earlier versions, which had no tiles
        ignored |= {f"data.tiles.{name}" for name in TileSettings.model_fields}
    if not config.training.unseen_below:  # keys of earlier versions
        ignored.add("training.unseen_below")
    settings = {
        name: value
        for name, value in flatten(dump(config)).items()
        if name not in ignored and not name.startswith((*_AFTER_TRAINING, *AREA_FILES))
    }
    if config.training.select == "last":  # keys of earlier versions, which had 2 and one set
        settings["data.synthetic_defects"] = config.data.synthetic_defects or 2
        del settings["data.validation.kinds"]
    return digest([settings, fingerprint])


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """Validate a recipe, fill in defaults and replace the backbone `auto`.

    Raises UserError with one sentence per error.
    """
    section = tree.get("detector", {})
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping) or not isinstance(section.get("name", "vqvae"), str):
        raise UserError(f"setting detector must be a section with a name; got {section!r}.")
    name = section.get("name", "vqvae")
    optional = {key: value for key, value in section.items() if key != "name"}
    kind = detector_class(name)
    settings = validate(kind.Config, optional, "detector.")
    config = validate(RunConfig, {**tree, "detector": {"name": name, **dump(settings)}})
    if config.data.resize == "aspect" and not kind.any_shape and config.data.tiles.size is None:
        raise UserError(
            f"setting data.resize: detector {name} needs images of one shape; got aspect; set "
            "data.resize=stretch or letterbox."
        )
    features = choose_backbone(config.features, config.data.image_size)
    return config.model_copy(update={"features": features})


def model_configs(config: RunConfig) -> list[RunConfig]:
    """Return one configuration per model: per category, or one for all (`data.joint`)."""
    names = choose_categories(config.data)
    groups = [names] if config.data.joint else [(name,) for name in names]
    return [
        config.model_copy(update={"data": config.data.model_copy(update={"categories": group})})
        for group in groups
    ]
