"""IPv4 and IPv6 addresses and MAC addresses.

At `balanced` an IP address needs something that says what it is: a scheme, a port, or a word such
as "IP" or "server" before it. At `high` it goes wherever it stands. Loopback, netmasks and
`0.0.0.0` are nobody's and stay; so do versions of four parts behind "v" or "version".
"""

from __future__ import annotations

import ipaddress
import re

from ledger.redact.contact import Found

_TWO_DOTS = re.compile(rb"\.\d{1,3}\.\d{1,3}\.\d{1,3}")
_GOES_ON = re.compile(rb"\.?\d|[A-Za-z_]|-\d")
_NOBODYS = frozenset({b"127.0.0.1", b"0.0.0.0", b"255.255.255.255", b"255.255.255.0"})
VERSION = re.compile(rb"(?:\bv|version|release|ver\.?)[ :=]{0,2}$", re.IGNORECASE)
_WORD = re.compile(rb"[a-z0-9]+")
_SAYS_IP = frozenset(
    b"ip ips ipv4 ipv6 address adresse host server client addr from peer gateway dns subnet login "
    b"connection connected ping ssh remote".split()
)
_BETWEEN = frozenset((b"is", b"was", b"ist", b"es", b"est", b"to", b"at", b"of"))
_PORT = re.compile(rb"\]?:\d{1,5}(?!\d|:)|/\d{1,3}(?!\d)")

_COLONS = re.compile(rb":[0-9a-fA-F]{0,4}:")
_HEX = b"0123456789abcdefABCDEF"
_IN_IPV6 = _HEX + b":"
_IPV6_REST = re.compile(rb"[0-9a-fA-F:]{0,40}:(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F:]{0,45}")
_ZONE = re.compile(rb"%[0-9A-Za-z]{1,15}")
_COLON_MAC = re.compile(rb"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}(?![0-9A-Za-z:])")
_DASH_MAC = re.compile(
    rb"-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}(?![0-9A-Za-z-])"
)
_DOT_MAC = re.compile(rb"\.[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}(?![0-9A-Za-z.])")
_MAC_WORD = re.compile(rb"[A-Za-z]")


def addresses(folded: bytes, high: bool) -> list[Found]:
    """Every address, in no particular order; none overlaps another."""
    found = _ipv6_and_macs(folded, high) if b":" in folded else []
    if b"." in folded:
        found += _ipv4(folded, high)
        if high:
            found += _paired_macs(folded, _DOT_MAC, 4)
    if b"-" in folded:
        found += _paired_macs(folded, _DASH_MAC, 2)
    return found


def _said(folded: bytes, start: int, end: int, high: bool) -> bool:
    before = folded[max(0, start - 24) : start]
    if high:
        return VERSION.search(before) is None
    if before.endswith((b"://", b"@")) or _PORT.match(folded, end) is not None:
        return True
    words = [word for word in _WORD.findall(before.lower())[-3:] if word not in _BETWEEN]
    return bool(words) and words[-1] in _SAYS_IP


def _ipv4(folded: bytes, high: bool) -> list[Found]:
    found, done = [], 0
    for rest in _TWO_DOTS.finditer(folded):
        window = folded[max(done, rest.start() - 4) : rest.start()]
        first = window[len(window.rstrip(b"0123456789")) :]
        start, end = rest.start() - len(first), rest.end()
        address = folded[start:end]
        if not 1 <= len(first) <= 3 or _GOES_ON.match(folded, end):
            continue
        before = folded[start - 1 : start]
        if before and (before in b"0123456789._" or before.isalpha()):
            continue
        if all(int(part) < 256 for part in address.split(b".")) and address not in _NOBODYS:
            # Of a mapped address (::ffff:192.0.2.1) the first part was taken with it.
            if _said(folded, start, end, high):
                found.append(Found(start, end, "IP"))
            done = end
    return found


def _ipv6_and_macs(folded: bytes, high: bool) -> list[Found]:
    found, done = [], 0
    colons = _COLONS.search(folded)
    while colons is not None:
        window = folded[max(done, colons.start() - 40) : colons.start()]
        start = colons.start() - len(window) + len(window.rstrip(_IN_IPV6))
        rest = _IPV6_REST.match(folded, colons.start())
        end = rest.end() if rest is not None else colons.end()
        span = _colon_address(folded, start, end, high)
        if span is not None:
            found.append(span)
            end = span.end
        done = max(end, colons.end() - 1)
        colons = _COLONS.search(folded, done)
    return found


def _colon_address(folded: bytes, start: int, end: int, high: bool) -> Found | None:
    before = folded[start - 1 : start] if start else b""
    if before and (before.isalnum() or before in b"_."):
        # "IP:2001:db8::1": a word and its colon stand before the address.
        if (cut := folded.find(b":", start, end)) < 0 or folded[cut + 1 : cut + 2] == b":":
            return None
        start = cut + 1
    while start < end and folded[start] == 0x3A and folded[start + 1 : start + 2] != b":":
        start += 1
    mac = _COLON_MAC.match(folded, start, end + 1)
    if mac is not None:
        return Found(start, mac.end(), "MAC")
    whole = folded[start:end]
    if whole.endswith(b":") and not whole.endswith(b"::"):
        whole, end = whole[:-1], end - 1
    after = folded[end : end + 1]
    if after.isalnum() or after == b"_" or not _is_ipv6(whole):
        return None
    zone = _ZONE.match(folded, end)
    end = zone.end() if zone is not None else end
    return Found(start, end, "IP") if _said(folded, start, end, high) else None


def _is_ipv6(text: bytes) -> bool:
    groups = [group for group in text.split(b":") if group]
    # `::1`, `a::b` and `10::20` are loopback, code and ratios.
    if len(groups) < 2 or not any(char in b"0123456789" for char in text):
        return False
    if len(groups) < 4 and max(map(len, groups)) < 3:
        return False
    try:
        ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return False
    return True


def _paired_macs(folded: bytes, rest: re.Pattern[bytes], width: int) -> list[Found]:
    """MACs with hyphens (`00-1A-2B-3C-4D-5E`) or dots (`001a.2b3c.4d5e`)."""
    found, done = [], 0
    for match in rest.finditer(folded):
        start = match.start() - width
        first = folded[max(start, done) : match.start()]
        before = folded[start - 1 : start] if start > 0 else b""
        if (
            len(first) < width
            or first.strip(_HEX)
            or (before and (before.isalnum() or before in b"_-."))
        ):
            continue
        whole = folded[start : match.end()]
        # Six pairs of digits may be a date and a time; a MAC without any letter is rare.
        if _MAC_WORD.search(whole) or (
            width == 2 and whole.count(b"-") == 5 and whole[:2] == b"00"
        ):
            found.append(Found(start, match.end(), "MAC"))
            done = match.end()
    return found
