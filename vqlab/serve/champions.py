"""Load the models to serve: the champion of each category, and other versions on request."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vqlab.data import areas_differ
from vqlab.errors import UserError, did_you_mean
from vqlab.model import Model
from vqlab.serve.settings import ServeSettings
from vqlab.text import category_text, join_names
from vqlab.tracking import Tracker, Version

logger = logging.getLogger("vqlab.serve")


class UnknownModel(UserError):
    """The category or version is not served."""


class UnusableModel(UserError):
    """A version is registered but cannot be loaded."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A registered version, loaded and warmed up. Immutable: a request uses one version from start
    to end, even if another one is promoted in between."""

    category: str
    version: int
    run_id: str
    model: Model = field(repr=False)
    registered: str
    """Category of the registered model: `a+b` for a joint model that also serves `category`."""

    @property
    def detector(self) -> str:
        return str(self.model.meta["config"]["detector"]["name"])

    @cached_property
    def digest(self) -> str:
        """See `Model.digest`, which takes a while to compute."""
        return self.model.digest


class Champions:
    """The models of a server. Thread-safe."""

    def __init__(self, settings: ServeSettings) -> None:
        """Load the champions. Raises UserError if the store or a champion is missing."""
        self._settings = settings
        tracker = Tracker.open(settings.mlruns, create=False, write=False)
        self._registry, self._is_copy = tracker.registry, tracker.is_copy
        self._champions: dict[str, list[ServedModel]] = {}
        self._cached: OrderedDict[tuple[str, int], ServedModel] = OrderedDict()
        self._loading = threading.Lock()
        categories = settings.categories or tuple(self._registry.champions())
        if not categories:
            raise UserError(
                f"no category in {settings.mlruns} has a champion; train and promote one first "
                "(vqlab promote --category NAME)."
            )
        for category in categories:
            champion = self._champion_of(category)
            if champion is None:
                raise self._registry.no_champion(category)
            self._champions[category] = self._load(champion, category)
        self._warn_of_hidden()
        if self._is_copy:
            logger.warning(
                "%s cannot be written, so a copy of its database is used; restart the server after "
                "a promotion.",
                settings.mlruns,
            )

    @property
    def current(self) -> dict[str, ServedModel]:
        """The champion of each category: its own, else that of a joint model.

        A joint model is served by the name `a+b`, or, if its categories have different inspected
        areas, by the name of each.
        """
        return {served.category: served for served in self._every()}

    def _every(self) -> list[ServedModel]:
        """Return all champions. If several serve the same category, the last one is used."""
        every = [served for models in self._champions.values() for served in models]
        return sorted(every, key=lambda served: served.category == served.registered)

    def _warn_of_hidden(self) -> None:
        """Warn of champions that are hidden by another champion of the same category."""
        current = self.current
        for hidden in self._every():
            served = current[hidden.category]
            if served is not hidden:
                logger.warning(
                    "category %s is served with the champion of %s, not of %s.",
                    hidden.category, served.registered, hidden.registered,
                )  # fmt: skip

    def champion(self, category: str | None) -> ServedModel:
        """Return the champion of a category; None: of the only one. Raises UnknownModel."""
        current = self.current
        if category is None and len(current) == 1:
            return next(iter(current.values()))
        names = join_names(sorted(current))
        if category is None:
            raise UnknownModel(f"category must be one of {names}; got none.")
        if category not in current:
            hint = did_you_mean(category, current) or f"available: {names}."
            raise UnknownModel(f"category {category!r} is not served; {hint}")
        return current[category]

    def version(self, category: str | None, number: int) -> ServedModel:
        """Return a version of a category; load it if necessary. Raises UnknownModel, or
        UnusableModel without details, which are logged."""
        champion = self.champion(category)
        if champion.version == number:
            return champion
        key = champion.category, number
        with self._loading:
            if key not in self._cached:
                versions = self._registry.versions(champion.registered)
                match = next((v for v in versions if v.version == number), None)
                if match is None:
                    numbers = join_names([str(v.version) for v in versions])
                    raise UnknownModel(
                        f"{champion.category} has no version {number}; available: {numbers}."
                    )
                try:
                    loaded = self._load(match, champion.model.image_category or champion.category)
                    if len(loaded) > 1:
                        loaded[0].model.area_of(None)  # raises
                    [self._cached[key]] = loaded
                except UserError as error:
                    logger.warning("version %d of %s: %s", number, champion.category, error)
                    raise UnusableModel(
                        f"version {number} of {champion.category} cannot be loaded; see the "
                        "server's log."
                    ) from None
            self._cached.move_to_end(key)
            while len(self._cached) > self._settings.cached_versions:
                self._cached.popitem(last=False)
            return self._cached[key]

    def versions(self, category: str) -> list[Version]:
        """Return the versions of a category, newest first. Raises UnknownModel."""
        return self._registry.versions(self.champion(category).registered)

    def refresh(self) -> int:
        """Replace champions for which another version was promoted; return their number.

        The new model is loaded while the old one continues to serve requests. If a category
        has lost its champion, the old one stays. Raises UserError if a champion cannot be loaded;
        the others are replaced.
        """
        if self._is_copy:
            return 0
        names = self._settings.categories or {*self._champions, *self._registry.champions()}
        replaced, failures = 0, []
        for category in sorted(names):
            served = self._champions.get(category)
            try:
                champion = self._champion_of(category)
                if champion is None or (served and _same(served[0], champion)):
                    continue
                loaded = self._load(champion, category)
            except UserError as error:
                failures.append(f"new champion of {category}: {error}")
                continue
            self._champions = {**self._champions, category: loaded}
            replaced += 1
        if replaced:
            self._warn_of_hidden()
        if failures:
            raise UserError("; ".join(failures))
        return replaced

    def _champion_of(self, category: str) -> Version | None:
        return self._registry.by_alias(self._registry.champion_name(category))

    def _load(self, version: Version, category: str) -> list[ServedModel]:
        """Load a version for the images of a category; of all its categories if `category` names a
        joint model that inspects a different area in each."""
        model = Model.load(self._registry.checkpoint(version), self._settings.device).use_engine()
        models = [model]
        if category_text([category]) != version.category:
            models = [model.for_category(category)]
        elif areas_differ(model.areas):
            models = [model.for_category(name) for name in model.categories]
        first = models[0]
        side = model.data.tiles.size or model.data.image_size
        size = (side, side) if first.area is None else first.area.mask.shape
        first.score(np.zeros((*size, 3), np.uint8))  # the first call is slower
        return [
            ServedModel(each.category, version.version, version.run_id, each, version.category)
            for each in models
        ]


def _same(served: ServedModel, version: Version) -> bool:
    return (served.version, served.run_id, served.registered) == (
        version.version, version.run_id, version.category,
    )  # fmt: skip
