"""Keys and values in the form that MLflow stores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag

from vqlab.text import storable, unique_key

_PARAM_LENGTH, _TAG_LENGTH, _KEY_LENGTH = 6000, 8000, 250
_DIGEST_LENGTH, _DATASET_LENGTH = 32, 500
_NOT_IN_DATASETS = r"[\x00-\x1f\ud800-\udfff]"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Ten times as fast where PyYAML was built with libyaml."""


def stored_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags in the form that MLflow accepts."""
    return {
        stored_key(name): _truncate(storable(str(tag)), _TAG_LENGTH) for name, tag in tags.items()
    }


def stored_key(name: str) -> str:
    """Return a unique key for `name` that MLflow accepts."""
    return unique_key(name, r"[^/\w.\- :]", _KEY_LENGTH)


def stored_param(value: Any) -> str:
    """Return a setting as a recipe spells it: true, null, [1, 2], text without quotes."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return _truncate(storable(text), _PARAM_LENGTH)


def stored_dataset(name: str, digest: str, source: str, context: str) -> DatasetInput:
    """Return a dataset, identified by the first 32 characters of its digest.

    context: train, validation or test.
    """
    dataset = Dataset(
        name=unique_key(name, _NOT_IN_DATASETS, _DATASET_LENGTH),
        digest=digest[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": source}),
    )
    tag = InputTag(key="mlflow.data.context", value=context)
    return DatasetInput(dataset=dataset, tags=[tag])


def yaml_text(tree: Mapping[str, Any]) -> str:
    """Return plain values as YAML; undecodable bytes of paths are escaped."""
    try:
        return str(yaml.dump(dict(tree), Dumper=_DUMPER, sort_keys=False, allow_unicode=True))
    except UnicodeEncodeError:  # libyaml's
        return str(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True))


def _truncate(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
