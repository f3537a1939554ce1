"""How a run is launched, and how it is asked to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping

from common.errors import Interrupted, UserError


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a launch of several processes that would silently run as one.

    `accelerate launch --cpu --num_processes N` sets a rendezvous address and starts a single process without telling
    it so; it would train N times longer than asked, with an N times smaller batch.
    """
    announced = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    ranked = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"} & set(environment)
    if announced and not ranked:
        raise UserError(
            "accelerate was asked for several processes but started only one (it does so with --cpu); "
            "use `torchrun --nproc_per_node N`, or "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`"
        )


class StopRequest:
    """SIGINT and SIGTERM: while training they are noted, to stop at the next step; elsewhere they stop at once.

    Launchers pass a signal on that the terminal has already sent to everybody, so a SIGTERM after the first signal is
    not taken for impatience; a second Ctrl-C is, and ends the process on the spot.
    """

    def __init__(self):
        self.signal_number: int | None = None
        self.raised: Interrupted | None = None
        self.deferred = False

    def __enter__(self) -> "StopRequest":
        in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere Python takes no signals
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame) -> None:
        again = self.signal_number is not None
        self.signal_number = self.signal_number or number
        if self.deferred and not (again and number == signal.SIGINT):
            return
        if not again or number == signal.SIGINT:
            name = signal.Signals(number).name
            self.raised = Interrupted(
                f"stopped by {name}; nothing is lost that was not trained: run the same command again, "
                "with --resume_from_checkpoint auto if there is a checkpoint",
                number,
            )
            raise self.raised

    def check(self) -> None:
        """Raises `Interrupted` again where a library has swallowed it (`datasets` does while it hashes a function)."""
        if self.raised is not None:
            raise self.raised

    @contextlib.contextmanager
    def defer(self) -> Iterator[None]:
        """Inside the `with` a signal is only noted in `signal_number`."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False
