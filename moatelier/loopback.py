"""Whether an address is this machine: a proxy for the outside must not see, or break, what we say to ourselves."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """The URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
