"""The MLflow model of a registered version: `mlflow.pyfunc.load_model`, `mlflow models serve`.

A LoggedModel holds `served_model.py`, the checkpoint, a signature, an input example and pinned
requirements, but no pickle. It shows the metrics of its run and of later evaluations by data set.
It is created when a run is registered, not for each trial.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import warnings
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema
from PIL import Image

from vqlab.text import unique_key
from vqlab.tracking.pages import NOTE
from vqlab.tracking.store import Client
from vqlab.version import __version__

with warnings.catch_warnings():  # MLflow warns about its own type hints
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc

CODE = Path(__file__).with_name("served_model.py")
_SHA = "vqlab.checkpoint_sha256"
"""Tag: SHA-256 of the checkpoint; a registered version has it, too."""
_TAGS = ("vqlab.category", "vqlab.categories", "vqlab.detector", "vqlab.data_fingerprint")
"""Tags of a run that its model has, too."""
_VERSIONS = "mlflow.modelVersions"
"""Tag of a LoggedModel with its registered versions, which the UI shows."""
_NOT_IN_NAMES = r"[^\w\- ]"
_METRICS_AT_ONCE = 1000
_EXAMPLE_SIDE = 64
_SPLITS = ("test/", "validation/")
_SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.binary, "image"),
            ColSpec(DataType.string, "category", required=False),
        ]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.double, "score", required=False),
            ColSpec(DataType.double, "calibrated", required=False),
            ColSpec(DataType.double, "p_value", required=False),
            ColSpec(DataType.string, "verdict"),
            ColSpec(AnyType(), "regions"),
            ColSpec(DataType.string, "reason"),
        ]
    ),
)


def logged_model(
    client: Client, run_id: str, checkpoint: Path, sha256: str, name: str
) -> LoggedModel:
    """Return the LoggedModel of a run's checkpoint; create it if there is none.

    name: of the registered model. What a killed process left behind is deleted.
    """
    run = client.get_run(run_id)
    for model in _models_of(client, run):
        if model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
        elif model.tags.get(_SHA) == sha256:
            _show_on_run(client, run, model)
            return model
    tags = {
        _SHA: sha256,
        NOTE: _description(name),
        **{key: run.data.tags[key] for key in _TAGS if key in run.data.tags},
    }
    model = client.create_logged_model(
        run.info.experiment_id,
        name=unique_key(name, _NOT_IN_NAMES),
        source_run_id=run_id,
        tags=tags,
        params=dict(run.data.params),
    )
    with tempfile.TemporaryDirectory(prefix=".model-", dir=client.store.root) as folder:
        path = Path(folder) / "model"
        _save(path, model.model_id, run_id, checkpoint)
        client.log_model_artifacts(model.model_id, str(path))
    add_metrics(client, model.model_id, run_id)
    model = client.finalize_logged_model(model.model_id, "READY")
    _show_on_run(client, run, model)
    return model


def _show_on_run(client: Client, run: Any, model: LoggedModel) -> None:
    """Show a model as an output of its run, unless it is shown already."""
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])


def _models_of(client: Client, run: Any) -> list[LoggedModel]:
    return list(
        client.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
        )
    )


def _save(path: Path, model_id: str, run_id: str, checkpoint: Path) -> None:
    """Save the model as a folder in MLflow's format."""
    file = io.BytesIO()
    Image.new("RGB", (_EXAMPLE_SIDE, _EXAMPLE_SIDE), "grey").save(file, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, used by MLflow
        mlflow.pyfunc.save_model(
            path,
            python_model=str(CODE),
            artifacts={"checkpoint": str(checkpoint)},
            signature=_SIGNATURE,
            input_example=pd.DataFrame({"image": [file.getvalue()]}),
            pip_requirements=list(pinned_requirements()),
            mlflow_model=Model(model_id=model_id, run_id=run_id),
        )


@cache
def pinned_requirements() -> tuple[str, ...]:
    """Return vqlab and its dependencies at the installed versions."""
    pinned = [f"vqlab=={__version__}"]
    try:
        requirements = metadata.requires("vqlab") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return tuple(pinned)
    for requirement in requirements:
        match = re.match(r"[\w.\-]+", requirement)
        if match and "extra ==" not in requirement:
            # Builds such as 2.6.0+cpu are not in the package index.
            pinned.append(f"{match[0]}=={metadata.version(match[0]).partition('+')[0]}")
    return tuple(pinned)


def add_metrics(client: Client, model_id: str, run_id: str) -> None:
    """Add the metrics of a run to a model, each with the data set that it was measured on."""
    run = client.get_run(run_id)
    datasets = [each.dataset for each in run.inputs.dataset_inputs] if run.inputs else []
    data = (
        {"dataset_name": datasets[-1].name, "dataset_digest": datasets[-1].digest}
        if datasets
        else {}
    )
    metrics = [
        Metric(key, value, run.info.end_time or 0, 0, model_id=model_id, run_id=run_id, **data)
        for key, value in run.data.metrics.items()
        if key.startswith(_SPLITS)
    ]
    for first in range(0, len(metrics), _METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[first : first + _METRICS_AT_ONCE])


def show_version(client: Client, model_id: str, name: str, version: int | str) -> None:
    """Show a registered version on the page of its model, as `mlflow.register_model` does, unless
    it is shown already."""
    versions = json.loads(client.get_logged_model(model_id).tags.get(_VERSIONS, "[]"))
    entry = {"name": name, "version": int(version)}
    if entry not in versions:
        text = json.dumps([*versions, entry])
        client.set_logged_model_tags(model_id, {_VERSIONS: text})


def _description(name: str) -> str:
    return f"""\
Scores images: `score` (higher is more anomalous), `calibrated` (0 to 1, 0.5 at the threshold),
`p_value` (share of normal images that score at least as high), `verdict` (`pass`, `review`,
`reject` or `unreadable`), `regions` (defects of the image) and `reason` (why an image is
unreadable). Input: a column `image` with the bytes of image files, and optionally `category`, which
a joint model needs if it inspects a different area in each category.

```python
model = mlflow.pyfunc.load_model("models:/{name}@champion")
model.predict(pandas.DataFrame({{"image": [Path("part.png").read_bytes()]}}))
```

`mlflow models serve -m "models:/{name}@champion" --env-manager local` takes the bytes as base64:
`{{"dataframe_records": [{{"image": "iVBORw0…"}}]}}`.
"""
