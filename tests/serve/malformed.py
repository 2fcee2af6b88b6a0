"""Malformed requests, made by schemathesis from the server's own description of its API.

`python tests/serve/malformed.py ADDRESS COUNT [SEED]` sends COUNT requests to a running server.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation

_LEAKS = re.compile(r"Traceback|File \"|/site-packages|/tmp/|\.py\b|mlruns")
"""Nothing of this may be in an error, unless the request contains it."""
_INTERNAL = re.compile(r"Traceback \(most|/site-packages|mlruns")
"""Nothing of this may be in any answer; the history's rows may hold names that were sent before."""


def send_malformed(address: str, count: int, first_seed: int = 0) -> Counter[tuple[str, int]]:
    """Send `count` requests to all operations in turn; return the number by operation and status.

    Raises AssertionError for a status of 500 or above, an error that is not one sentence in JSON,
    and an answer with a path or traceback.
    """
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    category = requests.get(f"{address}/v1/categories", timeout=60).json()[0]["category"]
    operations = [result.ok() for result in schema.get_all_operations()]
    # An operation without parameters and body cannot be malformed.
    operations = [o for o in operations if o.method == "post" or list(o.iter_parameters())]
    bodies = [operation for operation in operations if operation.method == "post"]
    order = [*operations, *bodies * 4]  # most of what can go wrong is in bodies
    statuses: Counter[tuple[str, int]] = Counter()
    batch, turn = min(500, max(10, count // len(order))), 0
    with requests.Session() as session:
        while (left := count - statuses.total()) > 0:
            operation = order[turn % len(order)]
            for case in malformed_cases(operation, min(batch, left), first_seed + turn):
                for each in variants(case, category):
                    response = each.call(base_url=address, session=session, timeout=60)
                    statuses[operation.label, response.status_code] += 1
                    check(response.status_code, response.text, each)
            turn += 1
    return statuses


def malformed_cases(operation: APIOperation, count: int, seed_number: int) -> list[Case]:
    """Return up to `count` cases that violate the description of the operation."""
    cases: list[Case] = []

    @seed(seed_number)
    @settings(
        max_examples=count, deadline=None, database=None, derandomize=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases


def variants(case: Case, category: str) -> Iterator[Case]:
    """Yield a case, and the same with valid parameters, so that the rest of it is read, such as a
    malformed body."""
    yield case
    if case.method == "POST":
        verdict = {"verdict": "unsure"} if "feedback" in case.path else {}
        case.query = {"category": category, **verdict}
        yield case
    elif "{category}" in case.path:
        case.path_parameters = {"category": category}
        yield case


def check(status: int, text: str, case: Case) -> None:
    """Assert what must hold for the answer to any request."""
    assert status < 500, f"{case.as_curl_command()}: {status} {text[:300]}"
    sent = f"{case.path_parameters} {case.query} {case.headers} {case.body!r}"
    leak = (_LEAKS if status >= 400 else _INTERNAL).search(text)
    assert leak is None or leak[0] in sent, f"{case.as_curl_command()}: {text[:300]}"
    if status >= 400 and text.startswith("{"):
        assert '"error":' in text


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    started = time.monotonic()
    statuses = send_malformed(address, count, int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    by_status: Counter[int] = Counter()
    for (label, status), number in sorted(statuses.items()):
        by_status[status] += number
        print(f"{label:55} {status} {number}")
    print(f"{statuses.total()} requests in {time.monotonic() - started:.0f} s: {dict(by_status)}")


if __name__ == "__main__":
    main()
