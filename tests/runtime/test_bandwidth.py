import pytest

from rwkv_edge.runtime.bandwidth import read_bandwidth


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_bytes", [0, 1 << 22])
def test_memory_is_read_at_some_speed(n_threads, n_bytes):
    # From a kilobyte a second to a petabyte.
    assert 1e3 < read_bandwidth(n_threads, n_bytes, passes=2) < 1e15
