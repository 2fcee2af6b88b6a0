"""The categories of a run or of a registered model, as its tags say.

A name made of a category is no identity: look-ups compare the list in the tag `vqlab.categories`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from vqlab.text import category_text

_TEXT, _LIST = "vqlab.category", "vqlab.categories"


def category_tags(categories: Sequence[str]) -> dict[str, str]:
    """Return the tags of what is about these categories: one text for people, and the list."""
    return {_TEXT: category_text(categories), _LIST: json.dumps(list(categories))}


def categories_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return the categories that tags name; without a list that fits the text, `+` separates."""
    text = tags.get(_TEXT, "")
    return _listed(tags) or (tuple(text.split("+")) if text else ())


def same_categories(tags: Mapping[str, str], categories: Sequence[str]) -> bool:
    """Return whether tags are of exactly these categories."""
    listed = _listed(tags)
    return listed == tuple(categories) if listed else tags.get(_TEXT) == category_text(categories)


def _listed(tags: Mapping[str, str]) -> tuple[str, ...]:
    """The list in the tags, if the text is still of it; runs of vqlab 0.1 have the text alone."""
    try:
        listed = tuple(map(str, json.loads(tags[_LIST])))
    except (KeyError, ValueError, TypeError):
        return ()
    return listed if category_text(listed) == tags.get(_TEXT) else ()


def meant_by(text: str, categories: Sequence[str]) -> bool:
    """Return whether a user's `text` means these categories: the one, or several joined by `+`."""
    return tuple(categories) == (text,) or text == category_text(categories)


def readings(text: str) -> list[tuple[str, ...]]:
    """Return the categories that `text` may mean: one of that name first, then several."""
    return [(text,), tuple(text.split("+"))] if "+" in text else [(text,)]
