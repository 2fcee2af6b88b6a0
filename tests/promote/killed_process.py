"""Promote or roll back in a process that is killed after its n-th write to the store.

Reads one task per line from standard input (JSON: `mlruns`, `action`, `run`, `kill_after`) and
prints its exit status. The first process is not killed; each other one is forked from it, which is
much faster than starting a new one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.figure import Figure
from PIL import Image

import vqlab.promote.reproduce as reproduce
from vqlab.promote import GateSettings, promote, rollback
from vqlab.tracking import Run, Tracker
from vqlab.tracking import logged_model as logged_model  # imported once instead of in each process
from vqlab.tracking.store import Client

WRITES = ("create_", "set_", "log_", "update_", "delete_", "finalize_")


class Killer:
    """Count the writes of this process, and kill it after one of them. Consecutive writes of one
    kind, such as tags, count as one; the process is killed after the first of them.

    kill_after: number of the write, or a part of its name with arguments.
    """

    def __init__(self, kill_after: int | str) -> None:
        self.kill_after, self.count, self.last = kill_after, 0, ""
        call = Client.__getattr__
        Client.__getattr__ = lambda client, name: (  # type: ignore[method-assign]
            self.counted(call(client, name), name) if name.startswith(WRITES)
            else call(client, name)
        )  # fmt: skip
        Run.log_artifact = self.counted(Run.log_artifact, "artifact")  # type: ignore[method-assign]

    def counted(self, method: Any, name: str) -> Any:
        def counting(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            write = f"{name} {arguments}" if "alias" in name else name
            self.count += write != self.last
            self.last = write
            matches = isinstance(self.kill_after, str) and self.kill_after in write
            if matches or self.kill_after == self.count:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counting


def _act(task: dict[str, Any]) -> int:
    tracker = Tracker.open(Path(task["mlruns"]))
    if task["kill_after"]:
        Killer(task["kill_after"])
    if task["action"] == "rollback":
        rollback(tracker, "part", task.get("to"))
        return 0
    result = promote(
        tracker, "part", ref=task["run"], force=True, gates=GateSettings(resamples=100),
        output=Path(task["mlruns"]).parent / "results",
    )  # fmt: skip
    return int(not result.is_champion)


def _blank(figure: Figure, target: Path | BinaryIO, **_: object) -> None:
    Image.new("RGB", (1, 1), "white").save(target, format="png")


def main() -> None:
    """Run the tasks of standard input."""
    Figure.savefig = _blank  # type: ignore[assignment]
    reproduce.score_in_fresh_process = reproduce.score_images
    _act(json.loads(sys.stdin.readline()))  # imports what its forks need
    print(0, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 70
            try:
                code = _act(json.loads(line))
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    main()
