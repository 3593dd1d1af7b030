"""How a run is carried out: the second half of every batch flow's parameters; and how a part of it can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.store.access import Access
from tasks.store.error_codes import NIGHTLY, RetryRule, asked_codes
from tasks.store.ledger import RunStatus
from tasks.store.uris import WEB, parse

RunnerName = Literal["thread", "process", "ray", "work-pool"]


class Execution(BaseModel):
    """How a run is carried out; none of it changes a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: RunnerName = Field(
        "thread",
        description="thread: this process; process: a process for each GPU of this machine; ray: a Ray cluster "
        "(RAY_ADDRESS); work-pool: flow runs on the workers of a Prefect work pool",
    )
    workers: int = Field(1, ge=1, le=1000, description="processes, or flow runs of the work pool, that share the run")
    deployment: str = Field("shards/gpu", description="work pool: the deployment whose runs take a share each")
    window: int = Field(100, ge=1, le=1000, description="shards submitted and not yet finished, at most")
    attempts: int = Field(3, ge=1, le=20, description="passes over shards whose worker was lost")
    shard_timeout: float = Field(
        3600,
        gt=0,
        description="seconds for one shard, waiting for the device included; a flow run of the work pool that commits "
        "nothing for so long is replaced",
    )
    concurrency_limit: str | None = Field(
        None, description="global concurrency limit that every shard holds a slot of; made by 'fixpoint setup'"
    )
    max_failed_fraction: float = Field(0.05, ge=0, le=1, description="share of failed photos above which the run fails")
    reference: str | None = Field(None, description="folder of ground truth under the same names, for PSNR and SSIM")
    allow_http: bool = Field(False, description="read photos from the public web, where a manifest names them")
    allow_root: tuple[str, ...] = Field(
        (), description="further places a manifest may name: folders, buckets, and sites of a private network"
    )
    retry_failed: str | None = Field(
        None,
        description="failed photos that are tried again, whatever the number of attempts: all, or error codes separated "
        "by commas; none = those that another try may cure, three times at most",
    )
    report: bool = Field(True, description="write report/ at the end")
    current: Literal["none", "table", "pictures"] = Field(
        "none",
        description="bring current/photos.parquet up to date at the end: the newest good row of each photo, and which are gone "
        "from the source; pictures: current/images/ too, a copy of each current picture under the photo's own name",
    )
    browse: str | None = Field(
        None,
        description="address under which a browser opens the output, for links in Prefect; none = the console of Amazon or "
        "Google for their buckets, no links for others and folders",
    )
    prefect: bool | None = Field(
        None,
        description="whether the command records its run in Prefect; none = where PREFECT_API_URL names a server, the runner "
        "or a limit needs one, or there are more than 16 shards to do",
    )

    @property
    def needs_prefect(self) -> bool:
        """Whether Prefect starts the shards' processes or counts their slots."""
        return self.runner != "thread" or self.concurrency_limit is not None

    @model_validator(mode="after")
    def _one_thread(self) -> Self:
        """One process drives one device."""
        if self.runner == "thread" and self.workers > 1:
            raise ValueError(f"workers is {self.workers} but runner is thread: choose process, ray or work-pool")
        if self.prefect is False and self.needs_prefect:
            raise ValueError("prefect is false, but the runner or the concurrency limit needs it: leave prefect out")
        return self

    @field_validator("allow_root")
    @classmethod
    def _no_secrets(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        """Roots are kept in Prefect's database."""
        if any(parse(root).signed for root in roots):
            raise ValueError("allow_root takes folders and sites, without a signature")
        return roots

    @field_validator("browse")
    @classmethod
    def _a_web_address(cls, address: str | None) -> str | None:
        if address is not None and (parse(address).scheme not in WEB or parse(address).signed):
            raise ValueError("browse is an http:// or https:// address, without a signature")
        return address

    @field_validator("retry_failed")
    @classmethod
    def _known_codes(cls, codes: str | None) -> str | None:
        asked_codes(codes or "")
        return codes

    def retry_rule(self) -> RetryRule:
        """Which failed photos are planned again."""
        return NIGHTLY if self.retry_failed is None else RetryRule(asked=asked_codes(self.retry_failed))

    def with_site_of(self, source: str) -> Self:
        """The same with leave to read the place of a source on the web, which may be private if the operator names it."""
        place = parse(source)
        return (
            self.model_copy(update={"allow_root": (*self.allow_root, place.parent.uri)})
            if place.scheme in WEB
            else self
        )

    def access(self) -> Access:
        """What may be read beside the source."""
        return Access.to(*self.allow_root, http=self.allow_http)


@dataclass(frozen=True)
class Ended:
    """How a shard, or a worker's share, ended: its summary, or an error; ``lost``: with its worker, so try again."""

    done: dict[str, Any] | None = None
    error: str | None = None
    lost: bool = False


class TooManyFailures(RuntimeError):
    """More photos failed than ``max_failed_fraction`` allows. Their rows say why; the others are done."""


class Incomplete(RuntimeError):
    """Some shards could not be committed; the same command goes on with them."""


def judge(done: Mapping[str, int], status: RunStatus, errors: list[str], max_failed_fraction: float) -> None:
    """Raise Incomplete or TooManyFailures for a run that ended so.

    ``done``: the run's own counts (``flows.totals``). Photos that failed in earlier runs, or are good in them, do not
    count: a night is judged by its own photos.
    """
    if errors:
        raise Incomplete(
            f"{status.open_shards} shards are open, run the same command again to go on. First error: {errors[0]}"
        )
    processed, failed = done["processed"], done["processed_failed"]
    if processed and failed / processed > max_failed_fraction:
        raise TooManyFailures(
            f"{failed} of the {processed} photos of this run failed, more than the {max_failed_fraction:.0%} allowed; "
            f"{status.failed} of {status.photos} in all. The report and the rows with status 'failed' say why; 'fixpoint "
            "retry' tries them again"
        )


def refuse_signature(source: str) -> None:
    """Raise ValueError for a presigned source: a flow's parameters are kept in Prefect's database."""
    if parse(source).signed:
        raise ValueError(
            "SOURCE carries a signature, and a run's parameters are kept in Prefect's database: put the address into a "
            "manifest file and give that"
        )
