"""What a run may read: its source, what an operator lists, and of the web, if allowed, the public part only.

A manifest is written by somebody else. It must not lead to other files of this machine, to other buckets its
credentials open, or to services that trust this machine's address.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tasks.store.errors import InvalidLocation
from tasks.store.uris import WEB, Address, parse

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_METADATA_ADDRESSES = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})
_LOCAL = tuple(map(ipaddress.IPv6Network, ("64:ff9b:1::/48", "fec0::/10", "100::/64")))
"""Local by their RFCs, and not to every version of Python."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Access:
    """``http``: addresses of the public web may be read. ``roots``: places that may be read whatever lies there.

    A root of the web may be private; cloud metadata services never are read.
    """

    http: bool = False
    roots: tuple[Address, ...] = ()

    @classmethod
    def to(cls, *roots: str, http: bool = False) -> Access:
        """From URLs or folders. Raises InvalidLocation for what is neither."""
        return cls(http, tuple(parse(root) for root in roots))

    def beside(self, folder: Address) -> Access:
        """The same and one more root."""
        return Access(self.http, (*self.roots, folder))

    def covers(self, address: Address) -> bool:
        """Whether the address lies under one of the roots, symbolic links followed."""
        return any(_inside(address, root) for root in self.roots)

    def require(self, address: Address) -> None:
        """Raise InvalidLocation unless the address lies under a root, or on the web where that may be read.

        Nothing is looked up or contacted: what a host's name stands for is checked when it is met.
        """
        if address.scheme in WEB:
            if not self.http:
                raise InvalidLocation(
                    f"{address.shown} is a web address: reading from the web is off; allow it with --allow-http"
                )
        elif not self.covers(address):
            raise InvalidLocation(
                f"{address.shown} lies outside the manifest's own place: if it is yours to read, allow its folder "
                f"with --allow-root '{address.parent.shown}'"
            )

    def numeric(self, address: Address) -> list[tuple[str, int]]:
        """All addresses and the port that a web address stands for.

        Raises:
            InvalidLocation: if one of them may not be met.
            OSError: if the name cannot be looked up now.
        """
        host, port = _host(address)
        if host.rstrip(".").lower() in _METADATA_HOSTS:
            raise InvalidLocation(f"{host} is a cloud metadata service: photos are never read from there")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        private = self.covers(address)
        for entry in found:
            refuse_ip(str(entry[4][0]), private=private)
        return [(str(entry[4][0]), port) for entry in found]


SOURCE_ONLY = Access()
"""Nothing beside the source."""


def refuse_ip(numeric: str, *, private: bool = False) -> None:
    """Refuse an IP address of a metadata service, link-local, multicast or unspecified; private ones unless allowed.

    An IPv4 address inside an IPv6 one (mapped, compatible, 6to4, Teredo, NAT64) counts like itself.

    Raises:
        InvalidLocation: if so.
    """
    for ip in _meant(ipaddress.ip_address(numeric.split("%")[0])):
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA_ADDRESSES:
            raise InvalidLocation(f"{numeric} is a link-local or metadata address: photos are never read from there")
        if not private and (not ip.is_global or any(ip in network for network in _LOCAL)):
            raise InvalidLocation(
                f"{numeric} is an address of this machine or of a private network: if photos are to be read from "
                "there, allow the site with --allow-root http://HOST/"
            )


def _meant(ip: IP) -> list[IP]:
    """The address, or the IPv4 addresses that it stands for."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    inner: list[IP] = [found for found in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if found is not None]
    if ip in _NAT64 or (int(ip) >> 32 == 0 and int(ip) > 1):
        inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return inner or [ip]


def _host(address: Address) -> tuple[str, int]:
    """Host without brackets, and port."""
    host, colon, port = address.bucket.rpartition(":")
    if not colon or not port.isdecimal():
        host, port = address.bucket, "443" if address.scheme == "https" else "80"
    return host.strip("[]"), int(port)


def _inside(address: Address, root: Address) -> bool:
    if (address.scheme, address.bucket) != (root.scheme, root.bucket):
        return False
    if address.scheme == "file":
        return Path(address.path).resolve().is_relative_to(Path(root.path).resolve())
    path, folder = address.path, root.path
    if address.scheme in WEB:
        path, folder = (unquote(text.partition("?")[0]) for text in (path, folder))
        if ".." in path.replace("\\", "/").split("/"):
            return False
    return path == folder or not folder or path.startswith(folder.rstrip("/") + "/")
