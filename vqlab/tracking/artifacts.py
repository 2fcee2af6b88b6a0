"""Artifacts of runs as local files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vqlab.errors import UserError
from vqlab.tracking.errors import first_line
from vqlab.tracking.store import Client

CONFIG = "config.yaml"
"""Artifact that holds a run's resolved settings."""

CHECKPOINT = "checkpoint/model.safetensors"
"""Artifact that holds a run's checkpoint."""


class MissingArtifact(UserError):
    """The run has no such artifact."""


def artifact(client: Client, run_id: str, artifact_uri: str, path: str) -> Path:
    """Return the local path of an artifact; download it if necessary.

    Raises MissingArtifact (a UserError) if the run has no such artifact.
    """
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file":
        local = Path(url2pathname(parts.path)) / path
        if not path:
            local.mkdir(parents=True, exist_ok=True)
    else:
        local = client.store.root / "downloads" / run_id / path
        into = local.parent if path else local  # MLflow appends the last component
        into.mkdir(parents=True, exist_ok=True)
        try:
            client.download_artifacts(run_id, path, str(into))
        except UserError:
            raise
        except Exception as error:  # artifact stores raise the errors of their own libraries
            raise MissingArtifact(
                f"artifact {path!r} of run {run_id} could not be retrieved: {first_line(error)}"
            ) from error
    if not local.exists():
        raise MissingArtifact(f"run {run_id} has no artifact {path!r}; it may have been deleted.")
    return local
