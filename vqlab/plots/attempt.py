"""Turn errors in drawing figures into warnings, so that they do not end a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from vqlab.errors import UserError


class PictureWarning(UserWarning):
    """A figure could not be drawn."""


@contextmanager
def attempt(figure: str) -> Iterator[None]:
    """Turn an error in drawing `figure` into a `PictureWarning`.

    UserError and errors of the file system, such as a full disk, are raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"{figure} could not be drawn ({reason}).", PictureWarning, stacklevel=3)
