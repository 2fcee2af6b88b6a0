"""The hub of weights, and the ports that servers listen on."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from vqlab.doctor.finding import Finding
from vqlab.errors import UserError
from vqlab.ports import require_free

_SECONDS = 1.2
PORTS = {"vqlab ui": 5000, "vqlab dashboard": 8080}


def hub() -> list[Finding]:
    """Return whether the hub answers from which timm downloads weights."""
    address = os.environ.get("HF_ENDPOINT", "").strip() or "https://huggingface.co"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            advice = f"{name} is set: weights are not downloaded, see weights."
            return [Finding("hub", f"{address} not asked", "warning", advice)]
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # an answer, whatever it says
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = f"it cannot be reached ({reason}): weights are not downloaded, see weights."
        return [Finding("hub", address, "warning", advice)]
    return [Finding("hub", f"{address} answers")]


def ports() -> list[Finding]:
    """Return whether the ports are free on which the servers listen unless told otherwise."""
    findings = []
    for verb, port in PORTS.items():
        try:
            require_free("127.0.0.1", port)
        except UserError:
            advice = f"perhaps an earlier `{verb}` still runs; else choose: `{verb} --port OTHER`."
            findings.append(Finding(f"port {port}", f"in use ({verb})", "warning", advice))
        else:
            findings.append(Finding(f"port {port}", f"free ({verb})"))
    return findings
