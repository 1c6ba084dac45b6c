"""Which requests come from the demo page itself: its names, and other sites' pages."""

import ipaddress
import socket
import urllib.parse
from collections.abc import Mapping

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}  # of every answer


def is_served(name: str, host: str) -> bool:
    """Returns whether a request's Host may be `name` where the page is served at `host`.

    Another site's name may lead to this machine (DNS rebinding). An address is nobody's name, so
    that where more than this machine is served any is right.
    """
    parsed = _origin(f"http://{name}")
    if parsed is None or parsed[0] != f"http://{name}".lower():
        return False
    asked, host = parsed[1][1], _plain(host)
    if asked == host:
        return True
    if host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback):
        return asked in ("localhost", "127.0.0.1", "::1")
    machine = socket.gethostname().lower()
    short = machine.partition(".")[0]
    return _is_address(asked) or asked in ("localhost", machine, short, f"{short}.local")


def is_same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Returns whether a request with these headers comes from the page itself, or no browser.

    `host` is the request's Host, what the browser opened.
    """
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    ours = _origin(f"http://{host}")
    origin, referrer = headers.get("Origin"), headers.get("Referer")
    if origin is None and referrer is None:
        return True
    theirs = _origin(str(referrer) if origin is None else origin)
    if ours is None or theirs is None or (origin is not None and theirs[0] != origin.lower()):
        return False  # the latter is an address, no origin
    return theirs[1] == ours[1]


def _origin(url: str) -> tuple[str, tuple[str, str, int]] | None:
    """Returns the origin of a URL, as written and as (scheme, host, port); None if it has none."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return None
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    written = f"{parts.scheme}://{parts.netloc.lower()}"
    return written, (parts.scheme, _plain(parts.hostname), port)


def _plain(host: str) -> str:
    """Returns a host's name or address in its one plain form."""
    host = host.lower().removesuffix(".")
    return str(ipaddress.ip_address(host)) if _is_address(host) else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
