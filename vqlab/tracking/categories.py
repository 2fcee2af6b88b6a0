"""Categories of a run or registered model, stored in tags.

Look-ups compare the list in the tag `vqlab.categories`; names are not unique.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from vqlab.text import category_text

_TEXT, _LIST = "vqlab.category", "vqlab.categories"


def category_tags(categories: Sequence[str]) -> dict[str, str]:
    """Return tags with the categories as text and as a list."""
    return {_TEXT: category_text(categories), _LIST: json.dumps(list(categories))}


def categories_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return the categories in tags; without a valid list, the text is split at `+`."""
    text = tags.get(_TEXT, "")
    return _listed(tags) or (tuple(text.split("+")) if text else ())


def same_categories(tags: Mapping[str, str], categories: Sequence[str]) -> bool:
    """Return whether tags name exactly these categories."""
    listed = _listed(tags)
    return listed == tuple(categories) if listed else tags.get(_TEXT) == category_text(categories)


def _listed(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return the list in the tags if it matches the text; vqlab 0.1 stored the text only."""
    try:
        listed = tuple(map(str, json.loads(tags[_LIST])))
    except (KeyError, ValueError, TypeError):
        return ()
    return listed if category_text(listed) == tags.get(_TEXT) else ()


def matches_categories(text: str, categories: Sequence[str]) -> bool:
    """Return whether `text` names these categories: a single one, or several joined by `+`."""
    return tuple(categories) == (text,) or text == category_text(categories)


def interpretations(text: str) -> list[tuple[str, ...]]:
    """Return the possible meanings of `text`: one category, then several joined by `+`."""
    return [(text,), tuple(text.split("+"))] if "+" in text else [(text,)]
