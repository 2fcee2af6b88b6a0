"""Drawing that never ends a run: a picture that fails is a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from vqlab.errors import UserError


class PictureWarning(UserWarning):
    """A picture could not be drawn."""


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn an error in drawing `what` into a warning, and go on.

    A UserError passes, and what the system says of the place, such as a full disk.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"{what} could not be drawn ({reason}).", PictureWarning, stacklevel=3)
