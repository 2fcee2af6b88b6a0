"""Commands, options, settings and links of the documentation exist."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from vqlab.cli import load_commands
from vqlab.config import Settings
from vqlab.detectors import detector_class, names
from vqlab.promote.gates.settings import GateSettings
from vqlab.run import RunConfig
from vqlab.serve import ServeSettings

REPOSITORY = Path(__file__).parent.parent
HISTORY = REPOSITORY / "CHANGELOG.md"  # has names of earlier versions
PAGES = sorted({*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")} - {HISTORY})
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
FILES = (".csv", ".html", ".json", ".jsonl", ".md", ".png", ".py", ".yaml")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(text: str) -> Iterator[str]:
    """Yield the calls of vqlab in code blocks and between backticks."""
    blocks = [block.replace("\\\n", " ") for block in BLOCK.findall(text)]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
    for line in "\n".join([*blocks, *inline]).splitlines():
        for part in re.split(r"[|;]|&&|  #", line):
            words = re.match(r"\s*(?:\w+=\S*\s+)*(?:\S*/)?vqlab\s+([a-z].*)", part)
            if words:
                yield words[1]


def settings(kind: type[Settings], prefix: str) -> Iterator[str]:
    """Yield the dotted paths of settings and sections."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        for each in (field.annotation, *typing.get_args(field.annotation)):
            if hasattr(each, "model_fields"):
                yield from settings(each, f"{prefix}{name}.")


@pages
def test_commands_and_options_exist(page: Path) -> None:
    for call in commands(page.read_text(encoding="utf-8")):
        command, words = typer.main.get_command(load_commands()), call.split()
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command.name != "vqlab", call
        options = {"--help", "-h"}
        for parameter in command.params:
            options |= {*parameter.opts, *parameter.secondary_opts}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= options, call


def test_settings_exist() -> None:
    sections = {"gates": GateSettings, "serve": ServeSettings}
    known = set(settings(RunConfig, ""))
    for prefix, kind in sections.items():
        known |= set(settings(kind, f"{prefix}."))
    for name in names():
        known |= set(settings(detector_class(name).Config, "detector."))
    starts = "|".join([*RunConfig.model_fields, *sections])
    path = re.compile(rf"(?<![\w./-])(?:{starts})(?:\.[a-z]\w*)+")
    for page in PAGES:
        used = set(path.findall(page.read_text(encoding="utf-8")))
        assert {each for each in used if not each.endswith(FILES)} <= known, page


@pages
def test_links_and_anchors_exist(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, link
