"""`make bench`: CPU time of common operations, compared with other libraries and with lower bounds
for this machine.

Each benchmark is a script that runs with one thread in a new process. Machines are shared and
noisy: compare only values of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_BENCHMARKS = {"bench", "measure", "reference_patchcore", "reference_vqflow"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_BENCHMARKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=["all", *NAMES], nargs="?", default="all")
    parser.add_argument("--repeats", type=int, help="repetitions of each row")
    parser.add_argument("--json", type=Path, help="file to write all tables to")
    arguments = parser.parse_args()
    names = NAMES if arguments.bench == "all" else [arguments.bench]
    options = [] if arguments.repeats is None else ["--repeats", str(arguments.repeats)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    results, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"\n## {name}\n", flush=True)
            path = Path(folder) / f"{name}.json"
            command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--json", str(path)]
            if subprocess.run(command, env={**os.environ, **threads}).returncode:
                failed.append(name)
            else:
                results[name] = json.loads(path.read_text(encoding="utf-8"))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(f"These benchmarks failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
