"""Check the weights hub and the default ports of the servers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from vqlab.doctor.finding import Finding
from vqlab.errors import UserError
from vqlab.ports import require_free

TIMEOUT = 1.2
"""Seconds to wait for a server."""
PORTS = {"vqlab ui": 5000, "vqlab dashboard": 8080}


def hub() -> list[Finding]:
    """Check whether the hub from which timm downloads weights answers."""
    address = os.environ.get("HF_ENDPOINT", "").strip() or "https://huggingface.co"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            advice = f"{name} is set, so weights are not downloaded; unset it, or see weights."
            return [Finding("hub", f"{address} (offline mode)", "warning", advice)]
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # any response will do
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = f"it cannot be reached ({reason}); weights cannot be downloaded, see weights."
        return [Finding("hub", address, "warning", advice)]
    return [Finding("hub", f"{address} answers")]


def ports() -> list[Finding]:
    """Check whether the default ports of the servers are free."""
    findings = []
    for verb, port in PORTS.items():
        try:
            require_free("127.0.0.1", port)
        except UserError:
            advice = f"perhaps another `{verb}` is running; stop it, or use `{verb} --port OTHER`."
            findings.append(Finding(f"port {port}", f"in use ({verb})", "warning", advice))
        else:
            findings.append(Finding(f"port {port}", f"free ({verb})"))
    return findings
