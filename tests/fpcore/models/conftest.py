import pytest
import torch

from tests.tiny_models import tiny_sd1, tiny_sd2, tiny_sdxl

BUILDERS = {
    "sd1": tiny_sd1,
    "sd2": tiny_sd2,
    "sdxl": tiny_sdxl,
    "sd1-tiny-vae": lambda folder: tiny_sd1(folder, tiny_vae=True),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and threads that wait for each other stall on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Returns a function: the folder of a family's tiny model, built once a session and not to be changed."""
    built = {}

    def folder(family):
        if family not in built:
            built[family] = BUILDERS[family](tmp_path_factory.mktemp(family))
        return built[family]

    return folder
