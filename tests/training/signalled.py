"""`frspec` that is signalled by itself in the middle of a training step, so that no test depends on who is faster.

    python -m tests.training.signalled STEP SIGNAL {self,parent} train-draft ...

In the step after STEP the process (rank 0) sends SIGNAL to itself, or to the process that launched it, which passes it on to
every rank; then each that gets the signal waits until it has arrived, so that none is caught by it later.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from frspec_cli.cli.app import main
from frspec_cli.training.trainer import Trainer

step, name, receiver = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.argv[1:] = sys.argv[4:]
take_step = Trainer._take_step


def signalled_step(self: Trainer, *arguments: object) -> object:
    if self.step == step and (self.ranks.main or receiver == "parent"):
        if self.ranks.main:
            os.kill(os.getpid() if receiver == "self" else os.getppid(), getattr(signal, name))
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # `deferred` sets it when it arrives
            time.sleep(0.01)
    return take_step(self, *arguments)


if __name__ == "__main__":
    Trainer._take_step = signalled_step  # type: ignore[method-assign, assignment]
    main()
