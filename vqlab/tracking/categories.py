"""Categories of a run or registered model, stored in tags, and names of registered models.

Look-ups compare the list in the tag `vqlab.categories`; names are not unique.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from vqlab.text import category_text, unique_key

Category = str | Sequence[str]
"""A category, or the list of categories of a joint model."""

_TEXT, _LIST = "vqlab.category", "vqlab.categories"
_REFUSED = r"[^\w.\- ]"
"""Characters not allowed in names of registered models."""


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


def model_name(category: Category) -> str:
    """Return the preferred registered-model name of a category."""
    categories = (category,) if isinstance(category, str) else category
    if len(categories) == 1:
        return f"vqlab-{unique_key(categories[0], _REFUSED)}"
    return f"vqlab-joint-{unique_key(category_text(categories), _REFUSED, with_digest=True)}"


def model_names(categories: Sequence[str]) -> list[str]:
    """Return possible names of the registered model: the preferred one, and one with a digest in
    case that belongs to another category (a case-insensitive database)."""
    with_digest = unique_key(category_text(categories), _REFUSED, with_digest=True)
    return list(dict.fromkeys([model_name(categories), f"vqlab-{with_digest}"]))


def known_model_names(categories: Sequence[str]) -> list[str]:
    """Return `model_names` and the name used by vqlab 0.1."""
    earlier = re.sub(_REFUSED, "_", category_text(categories))
    return list(dict.fromkeys([*model_names(categories), f"vqlab-{earlier}"]))
