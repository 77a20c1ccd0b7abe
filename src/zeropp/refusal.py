"""What is wrong, in one line."""

_LONGEST = 240  # characters


def one_line(why: str) -> str:
    """Of which a long middle is left out."""
    line = " ".join(why.split())
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 3 :]}"
