"""Which addresses are of this machine only."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str | None) -> bool:
    """Whether an address, or a name, is of this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
