"""Numba's threads, of which one call at a time may start any."""

import os
import threading

import numba


class Turn:
    """Whose turn it is to use Numba's threads.

    The threading layer workqueue aborts the process when two threads start parallel work at once, and a forked
    child that starts any with GNU OpenMP is killed. So one call at a time is parallel, and none is
    in a forked child; the others run the serial twin, which gives the same bits. Other code that uses
    Numba's threads is outside of this.

    Attributes
    ----------
    lock : threading.Lock
        To be held, by ``with``, while threads run. Ctrl-C between an `acquire` and its ``try`` would leave it
        locked: 2% of the interrupts of a call of 50 microseconds did.
    forked : bool
        Whether this process is a forked child.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.forked = True
        self.lock = threading.Lock()

    def free(self) -> bool:
        """Whether threads may be started with the lock held; who finds it taken after all may wait for it."""
        return not self.forked and not self.lock.locked()

    def threads(self) -> int:
        """How many threads a call may use now; a forked child asks nobody.

        Numba answers under locks of its own, and one that was held at the fork stays locked in the child.
        """
        return numba.get_num_threads() if self.free() else 1


turn = Turn()
