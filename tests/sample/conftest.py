import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """For tensors so small that a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
