"""Command line of an exported model: print a JSON line for each image."""

import json
import os
import sys
from typing import Any

from vqlab.runtime import Model


def main(arguments: list[str]) -> int:
    """Print a JSON line for each image; return 3 if some cannot be read, 2 for a usage error."""
    if len(arguments) < 2:
        print("usage: MODEL.onnx IMAGE [IMAGE ...]", file=sys.stderr)
        return 2
    try:
        model, status = Model(arguments[0]), 0
    except Exception as error:  # onnxruntime's errors have no common class
        print(f"{arguments[0]} cannot be used as a model: {error}", file=sys.stderr)
        return 2
    for file in arguments[1:]:
        line = judge(model, file)
        status = 3 if line["verdict"] == "unreadable" else status
        try:
            print(json.dumps(line), flush=True)
        except BrokenPipeError:  # such as `| head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            break
    return status


def judge(model: Model, file: str) -> dict[str, Any]:
    """Return the result for an image file, or the reason if it cannot be read."""
    line: dict[str, Any] = {"file": file, "score": None, "threshold": model.thresholds.image}
    try:
        score, verdict, full = model.score(file)
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        reason = str(getattr(error, "reason", error))
        return line | {"calibrated": None, "verdict": "unreadable", "reason": reason}
    line |= {"score": score, "calibrated": model.thresholds.calibrated(score), "verdict": verdict}
    note = model.preprocessing.note(full.shape)
    line |= {"p_value": model.thresholds.p_value(score)}
    return line | {"note": note} if note else line


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
