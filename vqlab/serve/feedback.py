"""Turn human verdicts into training, threshold and test images, which are never mixed.

An image is identified by its decoded pixels. Its role is that of the dataset of the champion if it
is there already, else the one that an earlier call recorded, else assigned by a hash. Roles are
recorded before they are used and never change: an image that set a threshold is never a test
image, nor a test image one that sets a threshold, also in later datasets. All categories of a joint
model set its threshold, so that an image has one role in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vqlab.checkpoint import load_checkpoint
from vqlab.config import validate
from vqlab.data import (
    DataSettings,
    InspectedArea,
    Splits,
    choose_categories,
    decode_areas,
    load_dataset,
    pixels_digest,
    read_image,
)
from vqlab.errors import UserError
from vqlab.recipes import Folders
from vqlab.serve.feedback_dataset import ADDED, DatasetImage, is_added, write_category
from vqlab.serve.history import FOLDER, Feedback, History, RecordedRole, Role
from vqlab.serve.roles import NAMES, assigned_role, names_of, role_sentence
from vqlab.text import category_text, join_names, shell_word, visible
from vqlab.tracking import Tracker
from vqlab.types import ImageRecord

OnProgress = Callable[[str, int, int], None]
"""Called with the step, and the numbers of images done and in total."""
DEFECT = "defect"
"""Defect type of judged images."""
_THREADS = 4


@dataclass(frozen=True)
class JudgedImage:
    """A judged image and its role."""

    name: str
    verdict: str
    role: Role | None
    text: str
    """The role as a sentence."""


@dataclass(frozen=True)
class FeedbackResult:
    """The dataset that `write_feedback` wrote."""

    folder: Path
    """Folder of the dataset, for --data."""
    changed: bool
    """False if it was up to date."""
    judged: list[JudgedImage]
    before: dict[Role, int]
    """Images of the champion's dataset that are used, by role."""
    added: dict[Role, int]
    """Judged images that are used, by role."""
    categories: tuple[str, ...]
    """Categories of the champion."""
    notes: list[str] = field(default_factory=list)


def write_feedback(
    category: str,
    mlruns: Path,
    output: Path,
    folders: Folders | None = None,
    progress: OnProgress = lambda step, done, total: None,
) -> FeedbackResult:
    """Write the champion's dataset and the judged images to `output`/`category`.

    folders: the images of the champion if they were moved. A category of a joint model may have no
    feedback if another one has, so that all can be written. Nothing is written if nothing changed.
    Raises UserError if there is no champion or feedback, for the name of a joint model, for
    thresholds that were chosen on test images, and for folders that cannot be read or written.
    """
    settings, areas = _settings(category, mlruns, folders or Folders())
    categories = choose_categories(settings)
    history = History(mlruns / FOLDER)
    verdicts = {name: history.feedback(name) if history.exists else [] for name in categories}
    if not any(verdicts.values()):
        raise UserError(
            f"there is no feedback on {visible(category)} in {history.folder}; judge images on the "
            f"page of vqlab serve --category {shell_word(visible(category))} first."
        )
    feedback = verdicts[category]
    splits = load_dataset(settings, partial(progress, "reading the dataset"), areas.get)
    recorded = history.roles(*names_of(categories))
    notes: list[str] = []
    base, roles = _base(
        category, splits, recorded, verdicts, notes, partial(progress, "comparing pixels")
    )
    judged, added = _judged(category, feedback, history, base, recorded | roles, settings.bits)
    images = [*base.values(), *added]
    history.set_roles(category, {image.digest: image.role for image in images})
    return FeedbackResult(
        folder=output,
        changed=write_category(output / category, images),
        judged=judged,
        before=_counts(base.values()),
        added=_counts(added),
        categories=tuple(categories),
        notes=notes,
    )


def claim_threshold_images(
    categories: Sequence[str], mlruns: Path, digests: Mapping[Path, str]
) -> None:
    """Record that the images set the threshold of a model of these categories, so that none becomes
    a training or test image.

    digests: of the pixels of each file. Raises UserError if one of them has another role.
    """
    history = History(mlruns / FOLDER)
    roles = history.roles(*names_of(categories)) if history.exists else {}
    for path, digest in digests.items():
        if roles.get(digest, "threshold") != "threshold":
            raise UserError(
                f"{visible(path)} cannot set a threshold: for vqlab feedback it is "
                f"{NAMES[roles[digest]]}; remove it from the folder."
            )
    history.set_roles(category_text(categories), dict.fromkeys(digests.values(), "threshold"))


def _settings(
    category: str, mlruns: Path, folders: Folders
) -> tuple[DataSettings, dict[str, InspectedArea | None]]:
    """Return the data settings and the inspected areas of the champion. Raises UserError if they
    cannot be used."""
    tracker = Tracker.open(mlruns, create=False, write=False)
    champion = tracker.champion(tracker.registry.champion_name(category))
    _, meta = load_checkpoint(champion.checkpoint)
    trained = meta["data"]["categories"]
    if category not in trained:
        names = " ".join(f"-c {shell_word(name)}" for name in trained)
        raise UserError(
            f"feedback needs the category of each image; {visible(category)} is a joint model of "
            f"{join_names(trained)}; judge images by category (vqlab serve {names}), and run vqlab "
            "feedback for each category."
        )
    tree = folders.over({"data": meta["config"]["data"]})["data"]
    settings = validate(DataSettings, {**tree, "categories": trained}, "data.")
    if settings.validation.source == "test":
        raise UserError(
            "the champion's thresholds and settings were chosen on test images "
            "(data.validation.source=test), so that roles cannot be separated; promote a model "
            "trained with data.validation.source=drawn."
        )
    return settings, decode_areas(meta["data"].get("inspected"), trained)


def _base(
    category: str,
    splits: Splits,
    recorded: Mapping[str, RecordedRole],
    verdicts: Mapping[str, Sequence[Feedback]],
    notes: list[str],
    progress: Callable[[int, int], None],
) -> tuple[dict[str, DatasetImage], dict[str, RecordedRole]]:
    """Return the images of a category of the champion's dataset, and the roles of those of all its
    categories, by digest.

    verdicts: human verdicts by category. Judged images of an earlier feedback dataset are left to
    `_judged`. An image that would be a test image and also trained or set a threshold is excluded
    from the test images, with a note.
    """
    judged = {name: {each.pixels for each in rows} for name, rows in verdicts.items()}
    parts: dict[Role, Sequence[ImageRecord]] = {
        "train": splits.train.records,
        "threshold": splits.held_out.records,
        "test": splits.test.records,
    }
    placed = [(role, record) for role, records in parts.items() for record in records]
    images: dict[str, DatasetImage] = {}
    roles: dict[str, RecordedRole] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        bits = splits.train.settings.bits
        digests = pool.map(lambda each: _digest(each[1].path, bits), placed)
        for done, ((role, record), digest) in enumerate(zip(placed, digests, strict=True), 1):
            progress(done, len(placed))
            if digest in judged[record.category] and is_added(record.path):
                continue
            earlier = roles.setdefault(digest, recorded.get(digest, role))
            if record.category != category:
                continue
            if earlier == "mixed" or (earlier == "test") != (role == "test"):
                notes.append(
                    f"{visible(record.path)} is excluded: it is {NAMES[role]} of the dataset, but "
                    f"was {NAMES[earlier]} before."
                )
            elif digest not in images:
                _require_one_mask(record)
                name = record.path.name
                images[digest] = DatasetImage(
                    record.path, name, earlier, digest, record.defect, record.mask
                )
    return images, roles


def _require_one_mask(record: ImageRecord) -> None:
    if record.mask is not None and record.mask.is_dir():
        raise UserError(
            "a feedback dataset must have one mask per image; the dataset of the champion has a "
            f"folder of masks for {visible(record.path)} (MVTec LOCO AD); train the champion on a "
            "dataset in the layout of MVTec AD."
        )


def _judged(
    category: str,
    feedback: Iterable[Feedback],
    history: History,
    base: Mapping[str, DatasetImage],
    recorded: Mapping[str, RecordedRole],
    bits: int | None,
) -> tuple[list[JudgedImage], list[DatasetImage]]:
    """Return each judged image with its role, and the images to add to the dataset."""
    judged, added = [], []
    for each in sorted(feedback, key=lambda each: (each.name, each.pixels)):
        path = history.images / each.file
        role: Role | None = None
        if each.pixels in base:
            text = _in_dataset(each, base[each.pixels])
        elif not _is_stored(path, each.pixels, bits):
            text = f"Not used: its stored file {each.file} is missing or damaged."
        else:
            earlier = recorded.get(each.pixels)
            role = assigned_role(category, each.pixels, each.verdict, earlier)
            text = role_sentence(each.verdict, role, role or earlier)
        if role is not None:
            name = f"{ADDED}{each.pixels[:16]}{path.suffix}"
            defect = DEFECT if each.verdict == "defect" else "good"
            added.append(DatasetImage(path, name, role, each.pixels, defect))
        judged.append(JudgedImage(each.name, each.verdict, role, text))
    return judged, added


def _in_dataset(feedback: Feedback, image: DatasetImage) -> str:
    """Say that an image is in the dataset already, and whether its label contradicts the
    verdict."""
    label = "good" if image.defect == "good" else "defect"
    text = f"Already in the dataset: {NAMES[image.role]} ({label})"
    if feedback.verdict in ("good", "defect") and feedback.verdict != label:
        return f"{text}, which contradicts your verdict; check {visible(image.source)}."
    return f"{text}."


def _is_stored(path: Path, digest: str, bits: int | None) -> bool:
    try:
        return _digest(path, bits) == digest
    except UserError:
        return False


def _digest(path: Path, bits: int | None) -> str:
    return pixels_digest(read_image(path, bits))


def _counts(images: Iterable[DatasetImage]) -> dict[Role, int]:
    counts: dict[Role, int] = {"train": 0, "threshold": 0, "test": 0}
    for image in images:
        counts[image.role] += 1
    return counts
