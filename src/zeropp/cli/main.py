"""The command line: one verb, its options, and one clear line for what is wrong with them."""

import os
import sys
from collections.abc import Mapping

from zeropp.cli.plan import Planned
from zeropp.cli.profile import Profiled
from zeropp.cli.schedules import Generate, Schedules, Verify
from zeropp.cli.simulate import Show, Simulate
from zeropp.cli.train import Train
from zeropp.cli.verb import Verb

VERBS: Mapping[str, tuple[type[Verb], str]] = {
    "schedules": (Schedules, "list the schedules"),
    "generate": (Generate, "write a schedule as text"),
    "verify": (Verify, "prove a schedule or program sound, or say why not"),
    "simulate": (Simulate, "time, memory and communication of schedules, side by side"),
    "show": (Show, "draw a schedule's timeline"),
    "plan": (Planned, "find the fastest layout of a model on a cluster, and say why"),
    "profile": (Profiled, "measure a model's blocks and the links, for the planner"),
    "train": (Train, "train a GPT"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; 0 if all is well, 2 for bad input."""
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print("usage: zeropp VERB [options]     (zeropp VERB --help says more)\n")
        for name, (_, summary) in VERBS.items():
            print(f"    {name:12} {summary}")
        return 0
    try:
        if verb not in VERBS:
            raise ValueError(f"unknown verb {verb!r}; use one of {', '.join(VERBS)}")
        status = VERBS[verb][0].parse(rest, f"zeropp {verb}").perform()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        print(f"zeropp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("zeropp: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
