"""Where plans, commits, compacted files and checkpoints lie in an output."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from tasks.store.uris import Address

IMAGES = "images/"
GIVEN_UP = "given-up/"
"""Folder of the names that no picture may have any more."""
COMPACTED = "compacted/"
"""Folder of the files that hold the rows of many commits."""

_PLAN = re.compile(r"plans/(\d{6,})\.parquet")
_SHARD = re.compile(r"shards/(\d{6,})-(\d{5,})\.parquet")
_COMPACTED = re.compile(r"compacted/(\d{6,})\.parquet")
_CHECKPOINT = re.compile(r"checkpoints/\d{6,}-\d{8,}\.parquet")


def output_name(location: Address) -> str:
    """A short name of an output: last part of its address and eight hex digits of the address' SHA-256."""
    url = location.uri.rstrip("/")
    root = "/".join(part for part in (location.bucket, location.path.rstrip("/")) if part)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.rstrip("/").rsplit("/", 1)[-1]) or "run"
    return f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


class ShardId(NamedTuple):
    """A shard: number of its plan, from 1, and its own within the plan, from 0."""

    plan: int
    shard: int

    @property
    def key(self) -> str:
        """Key of its commit."""
        return f"shards/{self.name}"

    @property
    def name(self) -> str:
        """Name of its commit, without the folder."""
        return f"{self.plan:06d}-{self.shard:05d}.parquet"

    @classmethod
    def of(cls, key: str) -> ShardId | None:
        """The shard whose commit has this key; None for any other object."""
        match = _SHARD.fullmatch(key)
        return cls(int(match.group(1)), int(match.group(2))) if match else None


def plan_key(number: int) -> str:
    """Key of a plan."""
    return f"plans/{number:06d}.parquet"


def plan_numbers(keys: Iterable[str]) -> list[int]:
    """Numbers of the plans among the objects of plans/, ascending."""
    return sorted(int(match.group(1)) for key in keys if (match := _PLAN.fullmatch(key)))


def is_known(key: str) -> bool:
    """Whether a plan, a commit or a compacted file may have this key."""
    return any(form.fullmatch(key) for form in (_PLAN, _SHARD, _COMPACTED))


def compacted_key(number: int) -> str:
    """Key of a compacted file."""
    return f"{COMPACTED}{number:06d}.parquet"


def compacted_numbers(keys: Iterable[str]) -> list[int]:
    """Numbers of the compacted files among the objects of compacted/, ascending."""
    return sorted(int(match.group(1)) for key in keys if (match := _COMPACTED.fullmatch(key)))


def checkpoint_key(plans: int, shards: int) -> str:
    """Key of a checkpoint over so many plans and committed shards; the newest comes last in the order of the keys."""
    return f"checkpoints/{plans:06d}-{shards:08d}.parquet"


def checkpoint_keys(keys: Iterable[str]) -> list[str]:
    """The checkpoints among the objects of checkpoints/, the newest first."""
    return sorted((key for key in keys if _CHECKPOINT.fullmatch(key)), reverse=True)
