"""What can go wrong between a run and its storage.

::

    StoreError
    ├── InvalidLocation        a URL or key that is not allowed (also a ValueError)
    ├── NotFound               no such object, folder or bucket
    ├── AlreadyExists          a create met an object that stands; ``Store.put_new`` resolves it
    ├── AccessDenied           credentials missing, wrong or without the right
    ├── StoreFull              disk, quota or file system refuses more bytes
    ├── TooLarge               more bytes than the reader takes
    ├── TooSlow                bytes kept arriving past the deadline of one object
    ├── HostUnreachable        a web host that does not answer: its photos fail, nobody else's
    ├── StoreUnavailable       a transient failure outlived the retry budget; the same command resumes
    ├── NotExclusive           the store lets a second create overwrite the first
    ├── ForeignConfiguration   the output belongs to a run with another configuration
    ├── UnknownSchema          written by a version this one cannot read
    └── Corrupt                bytes differ from what was written
"""

from __future__ import annotations

from typing import ClassVar


class StoreError(Exception):
    """Base of all storage errors; the message is one sentence that names the fix.

    ``code`` is the word for it in a photo's row.
    """

    code: ClassVar[str] = "unreadable"

    transient: ClassVar[bool] = False
    """Whether trying the same again later can help."""


class InvalidLocation(StoreError, ValueError):
    """The URL or key is malformed, of a scheme that is not allowed, or leads out of its root."""


class NotFound(StoreError):
    """No such object, folder or bucket."""


class AlreadyExists(StoreError):
    """A create met an object that stands."""


class AccessDenied(StoreError):
    """Credentials are missing, wrong, expired or lack the right."""

    recognised: bool = False
    """Whether it is known who asked, and only the right is missing: the same credentials anew make no difference."""


class StoreFull(StoreError):
    """Disk, quota or a read-only file system refuses more bytes."""


class TooLarge(StoreError):
    """The object holds more bytes than the reader takes."""

    code = "too-large"


class TooSlow(StoreError):
    """The object did not arrive within its deadline, although the store answers."""

    code = "too-slow"


class HostUnreachable(StoreError):
    """A web host does not answer, or answers nonsense, for longer than the retry budget."""

    code = "unreachable"


class StoreUnavailable(StoreError):
    """A transient failure lasted longer than the retry budget."""

    transient = True


class NotExclusive(StoreError):
    """A second create of the same key succeeded, so commits would overwrite each other."""


class ForeignConfiguration(StoreError):
    """The output already belongs to a run with another configuration."""


class UnknownSchema(StoreError):
    """The object was written by a schema version that this version cannot read."""


class Corrupt(StoreError):
    """The bytes are not those that were written."""
