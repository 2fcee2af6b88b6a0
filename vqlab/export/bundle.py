"""A bundle that scores images with Python and onnxruntime: model, script, README, checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqlab import errors, pixels, runtime, verdict
from vqlab.export.parity import Parity

SCRIPT, REQUIREMENTS, README, SUMS = "score.py", "requirements.txt", "README.md", "SHA256SUMS"
PART = "score_"
"""Start of the names of the modules that the script imports."""
PACKAGES = ("numpy>=1.26", "onnxruntime>=1.17", "opencv-python-headless>=4.9", "pillow>=10.1")


def write_bundle(
    folder: Path, model: str, description: Mapping[str, Any], parity: Parity
) -> list[str]:
    """Write the files to `folder`, which contains the file `model`; return all names."""
    modules = _modules()
    for name, code in modules.items():
        (folder / name).write_text(code, encoding="utf-8", newline="\n")
    (folder / REQUIREMENTS).write_text("\n".join(PACKAGES) + "\n", encoding="utf-8")
    text = _readme(model, description, parity)
    (folder / README).write_text(text, encoding="utf-8", newline="\n")
    names = [model, *modules, REQUIREMENTS, README]
    sums = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8", newline="\n")
    return [*names, SUMS]


def _modules() -> dict[str, str]:
    """Return the code of `vqlab.runtime` and of the modules that it imports, by file name; there
    `vqlab.pixels.area` is `score_area`."""
    package, parts = Path(runtime.__path__[0]), Path(pixels.__path__[0]).glob("[a-z]*.py")
    files = {SCRIPT: package / "__main__.py", f"{PART}runtime.py": package / "__init__.py"}
    for path in sorted([Path(errors.__file__), Path(verdict.__file__), *parts]):
        files[PART + path.name] = path
    return {
        name: re.sub(r"\bvqlab\.(pixels\.)?(?=\w+ import )", PART, path.read_text("utf-8"))
        for name, path in files.items()
    }


def _review(thresholds: Mapping[str, Any]) -> tuple[str, str]:
    """Return the table row of the review threshold and the sentence on it; both may be empty."""
    if thresholds["review"] is None:
        return "", ""
    most = thresholds["target_review_or_reject_rate"]
    promise = f" (in review or rejected: at most {most:g})" if most is not None else ""
    sentence = " Otherwise it is in review if its score\nexceeds the review threshold."
    return f"| review threshold | {thresholds['review']!r}{promise} |\n", sentence


_TEMPLATE = """\
# Visual inspection of {description[category]}

Scores images of {description[category]} and rejects those that look anomalous. The detector
({description[detector]} on {description[backbone]}) was trained on normal images only.

## Run

Python 3.10 or newer; no GPU and no deep-learning framework.

```sh
python -m venv venv
venv/bin/pip install -r {requirements}
venv/bin/python {script} {model} IMAGE [IMAGE ...]
```

Prints a JSON line for each image: `file`, `score` (higher is more anomalous), `threshold`,
`calibrated` (0 to 1, 0.5 at the threshold), `verdict` (`pass`, `review`, `reject`, or `unreadable`
with a `reason`) and `p_value` (share of normal images that score at least as high). The exit status
is 3 if an image cannot be read. In Python, in this folder:

```python
from score import Model

model = Model("{model}")
score, verdict, anomaly_map = model.score("image.png")  # or an RGB array (H, W, 3), uint8
```

Check the files: `sha256sum --check {sums}`.

## Model

| | |
|---|---|
| category | {description[category]} |
| detector, backbone | {description[detector]}, {description[backbone]} |
| origin | {version}run {description[run]} |
| fingerprint of the data | {description[data_fingerprint]} |
| trained, exported with | {description[trained_with]}, {description[exported_with]} |
| image threshold | {thresholds[image]!r} ({thresholds[method]}{target}) |
{row}| pixel threshold | {thresholds[pixel]!r}, of the anomaly map |
| images | resized to {settings[input_shape][1]}x{settings[input_shape][0]} pixels \
({settings[resize]}), RGB, 0 to 1, brightness: {settings[brightness]}{bits} |

An image is rejected if its score exceeds the image threshold.{rule}
{notes}
The exported model was compared with the original on {parity.images} images: the largest relative
difference is {parity.map_relative:.1g} of maps and {parity.score_relative:.1g} of scores{ties};
all verdicts are equal.
The same description is in the metadata of {model}, as JSON under the key `{key}`.
"""


def _readme(model: str, description: Mapping[str, Any], parity: Parity) -> str:
    thresholds, settings = description["thresholds"], description["preprocessing"]
    rate = thresholds["target_false_reject_rate"]
    row, rule = _review(thresholds)
    if settings.get("inspected"):
        row += "| inspected area | a part of the image; other pixels are filled with grey |\n"
    ties = ""
    if parity.ties:
        ties = (
            f" ({parity.error:.1g} without the {parity.ties} of them where rounding decides "
            "between two codes that are equally near)"
        )
    return _TEMPLATE.format(
        model=model,
        description=description,
        thresholds=thresholds,
        settings=settings,
        parity=parity,
        row=row,
        rule=rule,
        ties=ties,
        target=f", for a false-reject rate of at most {rate:g}" if rate is not None else "",
        version=f"version {description['version']}, " if description["version"] else "",
        notes="".join(f"- {note}\n" for note in thresholds["notes"]),
        bits=f"; files with more than 8 bits hold {settings['bits']}" if settings["bits"] else "",
        script=SCRIPT,
        requirements=REQUIREMENTS,
        sums=SUMS,
        key=runtime.KEY,
    )
