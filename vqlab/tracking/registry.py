"""The registry: which checkpoint is a category's champion.

A registered model `vqlab-<category>` has numbered versions. Which categories it is about its tags
say: where a name is taken by another category, or cannot be one, a digest is appended. The alias
`champion` points at one of the versions, `previous` at the one that `rollback` goes back to. The
tag `vqlab.champions` of the registered model is the history: the versions that were champion in
turn, the present one last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from vqlab.errors import UserError, did_you_mean
from vqlab.text import category_text, storable, unique_key
from vqlab.tracking.categories import category_tags, readings, same_categories
from vqlab.tracking.run import artifact
from vqlab.tracking.store import Client

Category = str | Sequence[str]
"""One category, or the list of those of a joint model; a text is read as either."""

CHAMPION, PREVIOUS = "champion", "previous"
_PATH, _SHA = "vqlab.checkpoint", "vqlab.checkpoint_sha256"
_HISTORY = "vqlab.champions"
_REFUSED = r"[^\w.\- ]"
"""Characters that names of registered models do not have."""


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
    """The file, on this machine."""


class Registry:
    """Versions and aliases of a category's models."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def register(
        self,
        run_id: str,
        checkpoint: str,
        category: Category,
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Register the artifact `checkpoint` (a file's path in the run's artifacts) as the next
        version; its sha256 goes along. The aliases stay where they are.

        Raises UserError where the run has no such artifact.
        """
        file = self._file(run_id, checkpoint)
        every = {**(tags or {}), _PATH: checkpoint, _SHA: _sha256(file)}
        every = {name: storable(value) for name, value in every.items()}
        model = self._model(category) or self._create(category)
        source = f"runs:/{run_id}/{checkpoint}"
        return _version(
            _text(category),
            self._client.create_model_version(model.name, source, run_id, tags=every),
        )

    def _create(self, category: Category) -> RegisteredModel:
        """The registered model of a category, made under the first name that is not another's."""
        categories = readings(category)[0] if isinstance(category, str) else tuple(category)
        for name in _names(categories):
            try:
                return self._client.create_registered_model(name, tags=category_tags(categories))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._named(name, categories)  # another process may have been faster
            if found is not None:
                return found
        raise UserError(
            f"no model can be registered for category {_text(category)}: "
            f"{' and '.join(_names(categories))} are other categories' models; rename one."
        )

    def _model(self, category: Category) -> RegisteredModel | None:
        """The registered model whose tags are of this category, whatever its name."""
        meant = readings(category) if isinstance(category, str) else [tuple(category)]
        for categories in meant:
            for name in _known_names(categories):
                found = self._named(name, categories)
                if found is not None:
                    return found
        return None

    def _named(self, name: str, categories: Sequence[str]) -> RegisteredModel | None:
        """The model of that name, if it is of these categories."""
        try:
            found = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if same_categories(found.tags, categories) else None

    def versions(self, category: Category) -> list[Version]:
        """All versions, newest first; none where nothing was registered."""
        model = self._model(category)
        if model is None:
            return []
        found = self._client.search_model_versions(f"name = '{model.name}'", max_results=1000)
        own = [_version(_text(category), v) for v in found if v.name == model.name]
        return sorted(own, key=lambda v: -v.version)

    def at(self, category: Category, alias: str = CHAMPION) -> Version | None:
        """The version that an alias points at; None where there is none."""
        model = self._model(category)
        return None if model is None else self._at(model.name, _text(category), alias)

    def _at(self, model: str, category: str, alias: str = CHAMPION) -> Version | None:
        try:
            found = self._client.get_model_version_by_alias(model, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _version(category, found)

    def crown(self, new: Version, instead_of: Version | None, *, back: bool = False) -> None:
        """Make `new` the champion; its predecessor in the history becomes `previous`.

        back: return to where `new` is in the history and forget what came after it, so that going
        back again goes further back. Otherwise `new` is appended.

        Raises UserError where the present champion is no longer `instead_of`, with which `new` was
        compared (another promotion was faster).
        """
        model = new.model
        with FileLock(self._client.store.root / "registry.lock"):
            present = self._at(model, new.category)
            if (present and present.version) != (instead_of and instead_of.version):
                raise UserError(
                    f"{model} got another champion meanwhile (version "
                    f"{present.version if present else 'none'}); promote again."
                )
            before = self._history(present)
            if back and new.version in before[:-1]:
                last = max(i for i, version in enumerate(before[:-1]) if version == new.version)
                before = before[:last]
            history = [*before, new.version]
            self._client.set_registered_model_tag(model, _HISTORY, json.dumps(history))
            if len(history) > 1:
                self._client.set_registered_model_alias(model, PREVIOUS, str(history[-2]))
            elif self._at(model, new.category, PREVIOUS):
                self._client.delete_registered_model_alias(model, PREVIOUS)
            self._client.set_registered_model_alias(model, CHAMPION, str(new.version))

    def history(self, category: Category) -> list[int]:
        """Return the versions that were champion in turn, the present one last, without those that
        were rolled back; empty where there is no champion."""
        return self._history(self.at(category))

    def _history(self, present: Version | None) -> list[int]:
        if present is None:
            return []
        tags = self._client.get_registered_model(present.model).tags
        if _HISTORY in tags:  # without versions that somebody deleted
            there = {version.version for version in self.versions(present.category)}
            return [number for number in json.loads(tags[_HISTORY]) if number in there]
        return self._history_of_tags(present)

    def _history_of_tags(self, present: Version) -> list[int]:
        """The history of a model promoted before vqlab recorded it: by the tags of its versions."""
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
        """Add tags to a version (why it was promoted, or taken back)."""
        for name, value in tags.items():
            self._client.set_model_version_tag(
                version.model, str(version.version), name, storable(value)
            )

    def champion(self, category: Category) -> Champion:
        """The champion, its checkpoint on this machine.

        Raises UserError where there is none, naming the categories that have one, and where the
        file is gone or is not the one that was registered.
        """
        version = self.at(category)
        if version is None:
            raise self.no_champion(_text(category))
        return Champion(**vars(version), checkpoint=self.checkpoint(version))

    def checkpoint(self, version: Version) -> Path:
        """The checkpoint of a version on this machine, downloaded if need be.

        Raises UserError where the file is gone or is not the one that was registered.
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
                f"the run of version {version.version} of {version.category} was deleted for good "
                "(mlflow gc), and its checkpoint with it; roll back to another version (vqlab "
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
        """Return the error on a category without a champion, naming those that have one."""
        champions = self.champions()
        there = f"these have one: {', '.join(champions)}; " if champions else ""
        hint = did_you_mean(category, champions)
        hint = hint or f"{there}train and promote one (make promote CLASS={category})."
        return UserError(f"category {category!r} has no champion; {hint}")

    def champions(self) -> list[str]:
        """Return the categories that have a champion, sorted."""
        models = self._client.search_registered_models(max_results=1000)
        return sorted(m.tags.get("vqlab.category", m.name) for m in models if CHAMPION in m.aliases)


def model_name(category: Category) -> str:
    """Return the name under which a category's model is registered, if that is not taken."""
    categories = (category,) if isinstance(category, str) else category
    if len(categories) == 1:
        return f"vqlab-{unique_key(categories[0], _REFUSED)}"
    return f"vqlab-joint-{unique_key(category_text(categories), _REFUSED, with_digest=True)}"


def _names(categories: Sequence[str]) -> list[str]:
    """Return the names to give a model of these categories: the usual one, and where that is
    another's, such as in a database that takes `Nut` for `nut`, one with a digest."""
    with_digest = unique_key(category_text(categories), _REFUSED, with_digest=True)
    return list(dict.fromkeys([model_name(categories), f"vqlab-{with_digest}"]))


def _known_names(categories: Sequence[str]) -> list[str]:
    """Return `_names`, and the name that vqlab 0.1 gave."""
    earlier = re.sub(_REFUSED, "_", category_text(categories))
    return list(dict.fromkeys([*_names(categories), f"vqlab-{earlier}"]))


def _text(category: Category) -> str:
    return category_text([category] if isinstance(category, str) else category)


def _version(category: str, found: ModelVersion) -> Version:
    return Version(category, int(found.version), found.run_id, dict(found.tags), found.name)


def _sha256(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(2**20):
            sha.update(block)
    return sha.hexdigest()
