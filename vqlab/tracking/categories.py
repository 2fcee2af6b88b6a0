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
    """Return the categories that tags name; before there was a list, a `+` separated them."""
    try:
        return tuple(map(str, json.loads(tags[_LIST])))
    except (KeyError, ValueError, TypeError):
        text = tags.get(_TEXT, "")
        return tuple(text.split("+")) if text else ()


def same_categories(tags: Mapping[str, str], categories: Sequence[str]) -> bool:
    """Return whether tags are of exactly these categories."""
    if _LIST in tags:
        return categories_of(tags) == tuple(categories)
    return tags.get(_TEXT) == category_text(categories)


def meant_by(text: str, categories: Sequence[str]) -> bool:
    """Return whether a user's `text` means these categories: the one, or several joined by `+`."""
    return tuple(categories) == (text,) or text == category_text(categories)


def readings(text: str) -> list[tuple[str, ...]]:
    """Return the categories that `text` may mean: one of that name first, then several."""
    return [(text,), tuple(text.split("+"))] if "+" in text else [(text,)]
