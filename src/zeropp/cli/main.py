"""The command line: one verb, its options, and one clear line for what is wrong with them."""

import os
import sys
from collections.abc import Mapping

from zeropp.cli.doctor import Doctor
from zeropp.cli.explore import Explore
from zeropp.cli.export import Export
from zeropp.cli.plan import Planned
from zeropp.cli.profile import Profiled
from zeropp.cli.report import Report
from zeropp.cli.schedules import Generate, Schedules, Verify
from zeropp.cli.simulate import Show, Simulate
from zeropp.cli.tokenize import Tokenize
from zeropp.cli.train import Train
from zeropp.cli.verb import Verb
from zeropp.refusal import one_line

VERBS: Mapping[str, tuple[type[Verb], str]] = {
    "schedules": (Schedules, "list the schedules"),
    "generate": (Generate, "write a schedule as text"),
    "verify": (Verify, "prove a schedule or program sound, or say why not"),
    "simulate": (Simulate, "time, memory and communication of schedules, side by side"),
    "show": (Show, "draw a schedule's timeline"),
    "explore": (Explore, "see, compare and edit schedules on a page"),
    "plan": (Planned, "find the fastest layout of a model on a cluster, and say why"),
    "profile": (Profiled, "measure a model's blocks and the links, for the planner"),
    "doctor": (Doctor, "examine the ranks of a cluster: links, exactness, a step"),
    "tokenize": (Tokenize, "make token files of text, for training"),
    "train": (Train, "train a GPT, or a model of Hugging Face transformers"),
    "report": (Report, "write a page about runs, for a browser"),
    "export": (Export, "write a run's weights as safetensors, for transformers or peft"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; 0 if all is well, 2 for bad input."""
    try:
        if sys.stdout is None:
            raise ValueError("standard output is closed; redirect it, to /dev/null for example")
        status = _perform(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads, such as `head`, has seen enough
        _forget_output()
        return 0
    except OSError as error:
        if error.filename is not None:
            raise
        _forget_output()
        return _refuse(f"standard output: {error.strerror}; free its disk or redirect it")
    except ValueError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("zeropp: stopped", file=sys.stderr)
        return 130


def _perform(arguments: list[str]) -> int:
    verb, *rest = arguments or ["--help"]
    if verb in ("-h", "--help"):
        print("usage: zeropp VERB [options]     (zeropp VERB --help says more; zeropp --version)\n")
        for name, (_, summary) in VERBS.items():
            print(f"    {name:12} {summary}")
        return 0
    if verb == "--version":
        from zeropp import __version__  # which takes the installed package

        print(f"zeropp {__version__}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"unknown verb {verb!r}; use one of {', '.join(VERBS)}")
    return VERBS[verb][0].parse(rest, f"zeropp {verb}").perform()


def _refuse(why: str) -> int:
    """Say why, in one line; the status."""
    print(f"zeropp: {one_line(why)}", file=sys.stderr)
    return 2


def _forget_output() -> None:
    """What is still to be written, at exit at the latest, would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
