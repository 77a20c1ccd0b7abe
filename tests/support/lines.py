"""What a run prints, put together again where it was wrapped."""

import re

_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


def joined(output: str) -> list[str]:
    """Its lines, without time stamps, each with what was wrapped."""
    whole = re.sub(rf"\n{_STAMP}   ?(?=\S)", " ", output)
    return [re.sub(rf"^{_STAMP} ?", "", line) for line in whole.splitlines()]
