"""A process that answers: a question a line on standard input, its answer a line on the other."""

import os
import sys

from zeropp.explore.answers import answer_json


def main() -> None:
    """Until there are no more questions, or nobody is there for the answer."""
    try:
        for question in sys.stdin:
            print(answer_json(question), flush=True)
    except BrokenPipeError:
        os._exit(0)  # what is still to be written, at exit, would fail again


if __name__ == "__main__":
    main()
