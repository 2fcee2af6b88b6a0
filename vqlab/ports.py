"""Host and port checks for servers."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from vqlab.errors import UserError


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    """Return the error for an address on which no server can listen."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return UserError(
            f"host {host} is not an address of this machine; choose one with --host, e.g. "
            "127.0.0.1."
        )
    return UserError(
        f"port {port} of {host} cannot be used ({os.strerror(error.errno or 0)}); choose another "
        "with --port."
    )


def require_free(host: str, port: int) -> None:
    """Raise UserError unless a server can listen on that address now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do: a port that was just closed counts as free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def is_listening(host: str, port: int) -> bool:
    """Return whether a server accepts connections at that address."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on `host`."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def names_of(host: str) -> list[str]:
    """Return the host names under which other machines reach a server on `host`.

    `0.0.0.0` and `::` stand for all addresses of this machine; its name is included.
    """
    hosts = [host]
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            hosts = _addresses()
    names = [_bracketed(address) for address in hosts]
    return list(dict.fromkeys([*names, socket.gethostname(), socket.getfqdn()]))


def _addresses() -> list[str]:
    import psutil

    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return [each for each in addresses if not ipaddress.ip_address(each).is_loopback]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
