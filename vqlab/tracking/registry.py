"""The model registry: the champion checkpoint of each category.

A registered model `vqlab-<category>` has numbered versions; its tags name the categories. A digest
is appended to a name that is invalid or belongs to another category. The alias `champion` points to
the current version, `previous` to the one that `rollback` restores. The tag `vqlab.champions` of
the registered model lists the champions in order, the current one last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from vqlab.errors import UserError, did_you_mean
from vqlab.text import category_text, join_names, shell_word, storable
from vqlab.tracking.artifacts import artifact
from vqlab.tracking.categories import (
    Category,
    categories_of,
    category_tags,
    interpretations,
    known_model_names,
    model_names,
    same_categories,
)
from vqlab.tracking.store import Client, store_lock

CHAMPION, PREVIOUS = "champion", "previous"
_PATH, _SHA = "vqlab.checkpoint", "vqlab.checkpoint_sha256"
_MODEL = "vqlab.model_id"
"""Tag of a version: ID of its LoggedModel; versions of vqlab 0.1 have none."""
_HISTORY = "vqlab.champions"


@dataclass(frozen=True)
class Version:
    """A registered checkpoint."""

    category: str
    version: int
    run_id: str
    tags: dict[str, str]
    model: str
    """Name of the registered model."""


@dataclass(frozen=True)
class Champion(Version):
    """The champion of a category."""

    checkpoint: Path
    """Local path."""


class Registry:
    """Versions and aliases of registered models."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def register(
        self,
        run_id: str,
        checkpoint: str,
        category: Category,
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Register the artifact `checkpoint` (a path) as the next version, as an MLflow model.

        Aliases do not change. Raises UserError if the run has no such artifact.
        """
        from vqlab.tracking.logged_model import logged_model, show_version  # slow to import

        file = self._file(run_id, checkpoint)
        sha256 = _sha256(file)
        registered = self._model(category) or self._create(category)
        model = logged_model(self._client, run_id, file, sha256, registered.name)
        all_tags = {**(tags or {}), _PATH: checkpoint, _SHA: sha256, _MODEL: model.model_id}
        all_tags = {name: storable(value) for name, value in all_tags.items()}
        # For a source `models:/…`, MLflow would search the store of the process.
        version = self._client.create_model_version(
            registered.name, model.artifact_location, run_id, tags=all_tags,
            model_id=model.model_id,
        )  # fmt: skip
        show_version(self._client, model.model_id, version.name, version.version)
        return _version(_text(category), version)

    def registered(self, run_id: str, category: Category) -> Version | None:
        """Return the newest version of a run, complete: the process that registered it may have
        been killed. None if there is none.

        Raises UserError if its checkpoint is missing or differs from the registered one.
        """
        from vqlab.tracking.logged_model import show_version  # slow to import

        version = next((v for v in self.versions(category) if v.run_id == run_id), None)
        if version is not None:
            self.checkpoint(version)
            if _MODEL in version.tags:
                show_version(self._client, version.tags[_MODEL], version.model, version.version)
        return version

    def add_evaluation(self, run_id: str, evaluation: str) -> None:
        """Show the metrics of the run `evaluation` on the registered models of the run `run_id`."""
        from vqlab.tracking.logged_model import add_metrics  # slow to import

        versions = self._client.search_model_versions(f"run_id = '{run_id}'", max_results=1000)
        for model in {version.tags.get(_MODEL) for version in versions} - {None}:
            add_metrics(self._client, model, evaluation)

    def _create(self, category: Category) -> RegisteredModel:
        """Create the registered model of a category under the first available name."""
        categories = interpretations(category)[0] if isinstance(category, str) else tuple(category)
        for name in model_names(categories):
            try:
                return self._client.create_registered_model(name, tags=category_tags(categories))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            model = self._named(name, categories)  # may be created by another process
            if model is not None:
                return model
        raise UserError(
            f"no model can be registered for category {_text(category)}: "
            f"{' and '.join(model_names(categories))} are other categories' models; rename one."
        )

    def _model(self, category: Category) -> RegisteredModel | None:
        """Return the registered model whose tags name this category."""
        candidates = interpretations(category) if isinstance(category, str) else [tuple(category)]
        for categories in candidates:
            for name in known_model_names(categories):
                model = self._named(name, categories)
                if model is not None:
                    return model
        return None

    def _named(self, name: str, categories: Sequence[str]) -> RegisteredModel | None:
        """Return the model `name` if its tags name these categories."""
        try:
            model = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return model if same_categories(model.tags, categories) else None

    def versions(self, category: Category) -> list[Version]:
        """Return all versions, newest first."""
        model = self._model(category)
        if model is None:
            return []
        versions = self._client.search_model_versions(f"name = '{model.name}'", max_results=1000)
        versions = [_version(_text(category), v) for v in versions if v.name == model.name]
        return sorted(versions, key=lambda v: -v.version)

    def by_alias(self, category: Category, alias: str = CHAMPION) -> Version | None:
        """Return the version with this alias, or None."""
        model = self._model(category)
        return None if model is None else self._by_alias(model.name, _text(category), alias)

    def _by_alias(self, model: str, category: str, alias: str = CHAMPION) -> Version | None:
        try:
            version = self._client.get_model_version_by_alias(model, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _version(category, version)

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock to hold from comparing with the champion until a new one is set."""
        return store_lock(self._client.store, "registry")

    def set_champion(self, new: Version, instead_of: Version | None, *, back: bool = False) -> None:
        """Make `new` the champion; its predecessor in the history becomes `previous`.

        back: truncate the history after `new`, so that a second rollback goes back further;
        otherwise `new` is appended. Raises UserError if the champion is no longer `instead_of`
        (another promotion took place).
        """
        model = new.model
        present = self._by_alias(model, new.category)
        if (present and present.version) != (instead_of and instead_of.version):
            raise UserError(
                f"{model} has a new champion (version "
                f"{present.version if present else 'none'}); promote again."
            )
        before = self._history(present)
        shortens = back and new.version in before[:-1]
        history = _until(before[:-1], new.version) if shortens else [*before, new.version]
        # The alias `champion` decides. The stored list is never shorter than the history, since
        # `_until` can restore the history from a longer one if the process is killed in between.
        if not shortens:
            self._client.set_registered_model_tag(model, _HISTORY, json.dumps(history))
        if len(history) > 1:
            self._client.set_registered_model_alias(model, PREVIOUS, str(history[-2]))
        elif self._by_alias(model, new.category, PREVIOUS):
            self._client.delete_registered_model_alias(model, PREVIOUS)
        self._client.set_registered_model_alias(model, CHAMPION, str(new.version))
        if shortens:
            self._client.set_registered_model_tag(model, _HISTORY, json.dumps(history))

    def history(self, category: Category) -> list[int]:
        """Return past and current champion versions in order, without rolled-back ones."""
        return self._history(self.by_alias(category))

    def _history(self, present: Version | None) -> list[int]:
        if present is None:
            return []
        tags = self._client.get_registered_model(present.model).tags
        if _HISTORY in tags:  # without deleted versions
            existing = {version.version for version in self.versions(present.category)}
            listed = [number for number in json.loads(tags[_HISTORY]) if number in existing]
            return _until(listed, present.version)
        return self._history_of_tags(present)

    def _history_of_tags(self, present: Version) -> list[int]:
        """Reconstruct the history of a model without the history tag from its versions' tags."""
        promoted = [v for v in self.versions(present.category) if "vqlab.promoted_at" in v.tags]
        stayed = [
            v for v in promoted
            if v.tags["vqlab.promoted_at"] > v.tags.get("vqlab.rolled_back_at", "")
            and v.version != present.version
        ]  # fmt: skip
        stayed.sort(key=lambda v: (v.tags["vqlab.promoted_at"], v.version))
        since = present.tags.get("vqlab.promoted_at", "~")
        earlier = [v.version for v in stayed if v.tags["vqlab.promoted_at"] <= since]
        return [*earlier, present.version]

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version (the reason of a promotion or rollback)."""
        for name, value in tags.items():
            self._client.set_model_version_tag(
                version.model, str(version.version), name, storable(value)
            )

    def describe(self, version: Version, text: str) -> None:
        """Write the description of a version, in Markdown."""
        text = storable(text)
        self._client.update_model_version(version.model, str(version.version), description=text)

    def champion(self, category: Category) -> Champion:
        """Return the champion with a local checkpoint.

        Raises UserError if there is none, or if its file is missing or differs from the registered
        one.
        """
        version = self.by_alias(category)
        if version is None:
            raise self.no_champion(_text(category))
        return Champion(**vars(version), checkpoint=self.checkpoint(version))

    def checkpoint(self, version: Version) -> Path:
        """Return the local path of a version's checkpoint; download it if necessary.

        Raises UserError if the file is missing or differs from the registered one.
        """
        sha = version.tags.get(_SHA, "")
        cached = self._client.store.root / "downloads" / version.run_id / version.tags[_PATH]
        if cached.is_file() and _sha256(cached) == sha:
            return cached
        try:
            file = self._file(version.run_id, version.tags[_PATH])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(
                f"the run of version {version.version} of {version.category} was permanently "
                "deleted (mlflow gc) with its checkpoint; roll back to another version (vqlab "
                f"rollback -c {version.category} --to N), or promote another run."
            ) from None
        if _sha256(file) != sha:
            raise UserError(
                f"{file} is not the file that was registered as version {version.version} of "
                f"{version.model} (its sha256 differs); promote again."
            )
        return file

    def _file(self, run_id: str, path: str) -> Path:
        uri = self._client.get_run(run_id).info.artifact_uri
        return artifact(self._client, run_id, uri, path)

    def no_champion(self, category: str) -> UserError:
        """Return the error for a category without a champion."""
        champions = self.champions()
        others = f"categories with one: {', '.join(champions)}; " if champions else ""
        hint = did_you_mean(category, champions)
        command = f"vqlab promote --category {shell_word(category)}"
        hint = hint or f"{others}train and promote one ({command})."
        return UserError(f"category {category!r} has no champion; {hint}")

    def champions(self, trained_on: str | None = None) -> list[str]:
        """Return the categories with a champion, sorted: joined by `+` for a joint model.

        trained_on: only those of models trained on this category.
        """
        models = self._client.search_registered_models(max_results=1000)
        return sorted(
            model.tags.get("vqlab.category", model.name)
            for model in models
            if CHAMPION in model.aliases
            and (trained_on is None or trained_on in categories_of(model.tags))
        )

    def champion_name(self, category: str) -> str:
        """Return the name, as in `champions`, of the champion that scores images of a category: its
        own, else that of a joint model trained on it. Raises UserError if there are several."""
        joint = [] if self.by_alias(category) else self.champions(trained_on=category)
        if len(joint) > 1:
            raise UserError(
                f"category {category} must have one champion; it has those of the joint models "
                f"{join_names(joint)}; choose a run of one of them (--model)."
            )
        return joint[0] if joint else category


def _until(history: Sequence[int], version: int) -> list[int]:
    """Return the history up to the last time that `version` became champion."""
    indices = [i for i, number in enumerate(history) if number == version]
    return [*history[: indices[-1] if indices else None], version]


def _text(category: Category) -> str:
    return category_text([category] if isinstance(category, str) else category)


def _version(category: str, stored: ModelVersion) -> Version:
    return Version(category, int(stored.version), stored.run_id, dict(stored.tags), stored.name)


def _sha256(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(2**20):
            sha.update(block)
    return sha.hexdigest()
