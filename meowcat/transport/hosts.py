"""What the host of a URL is."""

from ipaddress import ip_address

__all__ = ["is_address"]


def is_address(host: str) -> bool:
    """Whether it is an IP address (IPv6 without brackets), and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
