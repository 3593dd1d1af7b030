"""What tests of all folders share: kinds of tests, models, servers. Each is made once, when a test first asks for it.

A test's kind follows from what it asks for: a server's fixture makes it ``server``, a model's fixture ``model``, else it
is ``unit``. A test that loads a model or starts a server by itself says so: ``pytestmark = pytest.mark.model``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

from tests.cloud_servers import CloudServer, run_azurite, run_gcs
from tests.prefect_server import run_prefect_server
from tests.servers import S3Server, run_moto, run_seaweedfs

if TYPE_CHECKING:  # diffusers takes seconds to import, and most tests need none of it
    from fpcore.models.model import Model

torch.set_num_threads(1)  # small tensors gain nothing from threads, and servers and children need the other core

KINDS = ("unit", "model", "server", "chaos")
SERVERS = {"prefect_api", "seaweedfs", "moto", "gcs", "azurite"}
MODELS = {"builtin_model", "tiny_model", "model_folder"}

# Examples per property: few while one works, many at night. deadline=None: a busy machine is no failure.
for _profile, _examples in {"quick": 25, "default": 100, "nightly": 1000}.items():
    hypothesis.settings.register_profile(_profile, max_examples=_examples, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test the mark of its kind. Files with servers come first: they take longest, and no core is to wait
    for one of them at the end."""
    for item in items:
        if not any(item.get_closest_marker(kind) for kind in KINDS):
            item.add_marker(kind_of(getattr(item, "fixturenames", ())))
    slow = {item.path for item in items if item.get_closest_marker("server")}
    items.sort(key=lambda item: item.path not in slow)


def kind_of(fixtures: Collection[str]) -> str:
    """The kind of a test that asks for these fixtures."""
    return "server" if SERVERS & set(fixtures) else "model" if MODELS & set(fixtures) else "unit"


@pytest.fixture(scope="session")
def builtin_model() -> Callable[[str], Model]:
    """Returns a function: a shipped model by name (``haze``, ``scenes``) on the CPU. Shared: not to be changed."""
    from fpcore.models.load import load_model

    return cache(lambda name: load_model(f"builtin:{name}", device="cpu"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function: the folder of a tiny model (``sd1``, ``sd2``, ``sdxl``, ``sd1-tiny-vae``). Not to be changed."""
    from tests.tiny_models import FAMILIES

    return cache(lambda family: FAMILIES[family](tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def tiny_model(model_folder: Callable[[str], Path]) -> Callable[[str], Model]:
    """Returns a function: a family's tiny model, loaded on the CPU. Shared: not to be changed."""
    from fpcore.models.load import load_model

    return cache(lambda family: load_model(str(model_folder(family)), device="cpu"))


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with authentication: ``endpoint``, ``env`` for processes that use it, ``make_bucket``."""
    with run_seaweedfs(Path(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """An imitation of S3 that answers as AWS does."""
    with run_moto() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[CloudServer]:
    """An imitation of Google Cloud Storage that keeps its preconditions."""
    with run_gcs() as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    """Microsoft's emulator of Azure Blob Storage."""
    with run_azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of this test session's own; its API URL, also in the environment of child processes."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ.update(PREFECT_HOME=str(home), PREFECT_LOGGING_LEVEL="CRITICAL")
    with run_prefect_server(home) as url:
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        os.environ["PREFECT_API_URL"] = url
        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: str(home)}):
            yield url
        del os.environ["PREFECT_API_URL"]
