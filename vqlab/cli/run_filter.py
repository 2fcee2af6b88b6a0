"""Options that select runs, shared by several commands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vqlab.cli.options import Category, Detector, Kind, OlderThan, Status, Study, Where

if TYPE_CHECKING:
    from vqlab.tracking.run_filter import RunFilter

Command = Callable[..., None]
_OPTIONS: dict[str, Any] = {
    "category": Category, "detector": Detector, "status": Status, "kind": Kind, "study": Study,
    "older_than": OlderThan, "where": Where,
}  # fmt: skip
_ARGUMENT = "chosen"


def with_run_filter(*names: str) -> Callable[[Command], Command]:
    """Add these options (default: all) to a command; its argument `chosen` is their `RunFilter`.

    They come after the command's arguments and before its other options.
    """

    def decorate(command: Command) -> Command:
        declared = inspect.signature(command, eval_str=True, locals={"RunFilter": object})
        parameters: list[inspect.Parameter] = []
        for parameter in declared.parameters.values():
            if parameter.name != _ARGUMENT:
                parameters.append(parameter)
                continue
            for name in names or _OPTIONS:
                option = inspect.Parameter(name, parameter.kind, default=None)
                parameters.append(option.replace(annotation=_OPTIONS[name]))

        @functools.wraps(command)
        def call(**values: Any) -> None:
            options = {name: values.pop(name) for name in names or _OPTIONS}
            command(**values, chosen=_run_filter(**options))

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        return call

    return decorate


def _run_filter(
    *,
    category: str | None = None,
    older_than: str | None = None,
    where: Sequence[str] | None = None,
    **exact: str | None,
) -> RunFilter:
    """Return the filter of the options. Raises UserError for an invalid one."""
    from vqlab.tracking.run_filter import Condition, RunFilter, parse_age

    return RunFilter(
        category=None if category == "all" else category,
        older_than=None if older_than is None else parse_age(older_than),
        conditions=tuple(Condition.parse(text) for text in where or ()),
        **exact,
    )
