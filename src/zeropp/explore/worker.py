"""A process that answers: a question a line on standard input, its answer a line on the other."""

import sys

from zeropp.explore.answers import answer_json


def main() -> None:
    """Until there are no more questions."""
    for question in sys.stdin:
        print(answer_json(question), flush=True)


if __name__ == "__main__":
    main()
