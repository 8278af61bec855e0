"""How long this process waits for an S3 server that does not answer: not at all before its first answer.

A server that was never reached is most likely a wrong address, which a person must hear of at once. One that answered
before is starting again, and a run waits for it.
"""

from dataclasses import dataclass

WHOLE_S = 120.0
"""A call to a server that does not answer, or breaks off, is repeated for so long: a restart does not end a run."""


@dataclass
class Patience:
    """Seconds for which a failing call is repeated, and whether the server ever answered."""

    seconds: float = 0.0
    reached: bool = False

    def answered(self) -> None:
        """The server is there: from now on it is waited for."""
        self.seconds, self.reached = WHOLE_S, True

    def used_up(self) -> None:
        """The server was waited for in vain: the caller's calls to clean up need not wait as long again."""
        self.seconds = 0.0


OF_THIS_PROCESS = Patience()


def expect_server() -> None:
    """Wait for the server from the first call on: this process does work of another one that reached it."""
    OF_THIS_PROCESS.answered()
