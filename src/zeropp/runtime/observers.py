"""Several observers in the place of one."""

from zeropp.ir.action import Action
from zeropp.runtime.executor import Observer, Phase


class Observers:
    """Tells each of several, in their order."""

    def __init__(self, *each: Observer) -> None:
        self._each = each

    def observe(self, action: Action, phase: Phase) -> None:
        """`phase` of `action` ends now."""
        for one in self._each:
            one.observe(action, phase)
