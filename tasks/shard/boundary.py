"""The boundary around one photo: what goes wrong inside is that photo's row, whoever raised it."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from fpcore.inversion.invert import Cancelled
from tasks.photos.formats import PhotoError
from tasks.shard.loaded import TOO_LARGE, Loaded
from tasks.shard.outcome import Failure, printable
from tasks.store.errors import InvalidLocation, NotFound, StoreError

log = logging.getLogger(__name__)
Result = TypeVar("Result")
BEYOND_THE_PHOTO = (StoreError, Cancelled, torch.OutOfMemoryError)
"""An outage of the store, the run's cancellation and the device's memory say nothing of the photo."""


@contextmanager
def photo_boundary(item: Loaded, doing: str) -> Iterator[None]:
    """Fail ``item`` for whatever is raised inside, except what is in ``BEYOND_THE_PHOTO``.

    ``doing``: what was being done, as the end of a sentence, "while it was encoded".
    """
    try:
        yield
    except PhotoError as error:
        item.fail(Failure(error.code, str(error)))
    except (InvalidLocation, NotFound) as error:
        item.fail(Failure(error.code, str(error)))
    except BEYOND_THE_PHOTO:
        raise
    except MemoryError:
        item.fail(TOO_LARGE)
    except Exception as error:  # of a library, at a file nobody thought of: its neighbours must not pay for it
        log.warning("%s", printable(f"{item.planned.key} failed {doing}\n{traceback.format_exc()}"))
        item.fail(unexpected(error, doing))


def unexpected(error: Exception, doing: str) -> Failure:
    """The failure of a photo by an error nobody foresaw."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(
        "unexpected",
        f"An error nobody foresaw {doing} ({said[:300]}). Export the photo again, or report it with the photo.",
    )


def within(seconds: float, work: Callable[[], Result], doing: str) -> Result:
    """The result of ``work``, called in a thread of its own.

    Raises PhotoError (took-too-long) when it has not come after ``seconds``; the thread cannot be stopped, and is left to
    itself. Raises what ``work`` raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed over to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True, name="photo")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise PhotoError(
            "took-too-long",
            f"The photo took more than {seconds:g} s {doing}. Make it smaller, or raise the setting photo_timeout.",
        )
    return results[0]
