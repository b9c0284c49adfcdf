import numba
import pytest
from hypothesis import settings

from . import parallel

# The helpers' assertions are to be as telling as those of the tests.
pytest.register_assert_rewrite("tests.problem")

# A first call compiles, which is no fault of the example that met it.
settings.register_profile("numbaconv", deadline=None, print_blob=True)
settings.load_profile("numbaconv")


@pytest.fixture
def set_threads():
    """`numba.set_num_threads`, undone after the test; skips where the pool is too small."""
    before = numba.get_num_threads()

    def set_threads(count):
        if count > numba.config.NUMBA_NUM_THREADS:
            pytest.skip(f"the thread pool has only {numba.config.NUMBA_NUM_THREADS}")
        numba.set_num_threads(count)

    yield set_threads
    numba.set_num_threads(before)


@pytest.fixture
def every_call_parallel():
    """Small problems are shared out to threads as well."""
    with parallel.everywhere():
        yield
