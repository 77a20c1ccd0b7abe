"""Every decoder of transformers that can be made small trains exactly, or is refused with a reason.

Some types in an ordinary run; `HF_TYPES=all` tries all of them, and compares docs/models.md.
"""

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from support.decoders import decoder, errors, plain, small_config, tokens
from support.ranks import run_ranks
from zeropp import Plan, hf
from zeropp.runtime import StepFailedError

SOME = ("olmo2", "phi3", "deepseek_v3", "gpt_oss", "falcon", "mamba", "bert", "xlnet")
KINDS = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if os.environ.get("HF_TYPES") == "all" else SOME
PLAN = Plan(2, 2, 2, unit_size=2)
LARGEST, SECONDS = 3_000_000, 20  # parameters, to make a model
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


class Found(NamedTuple):
    """What became of a type: `exact`, `refused`, `not tried` or `wrong`, and why."""

    how: str
    why: str = ""


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"it takes more than {seconds} s to make")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _make(kind: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(small_config(kind)).train()


def tried(kind: str) -> Found:
    """On one of two ranks, which have the same model."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    try:
        with _at_most(SECONDS):
            model = _make(kind)
    except Exception as error:  # whatever this type's code makes of such a configuration
        return Found("not tried", f"no small one was made: {_line(error)}")
    if (count := sum(p.numel() for p in model.parameters())) > LARGEST:
        return Found("not tried", f"the small one has {count} parameters")
    try:
        losses = {plain(model, *tokens(4), 2)[0] for _ in range(2)}
    except Exception as error:
        return Found("not tried", f"transformers alone does not train it: {_line(error)}")
    if len(losses) > 1:
        return Found("not tried", "it draws random numbers when it trains")
    try:
        hf.blocks(model)
    except ValueError as error:
        return Found("refused", _line(error).split(" cannot be cut: ")[-1])
    try:
        worst = max(errors(lambda: _make(kind), PLAN, tokens(4)).values())
    except (ValueError, StepFailedError) as error:
        return Found("refused", _line(error))
    return Found("exact" if worst <= 1e-5 else "wrong", f"{worst:.1e}")


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def every(kinds: tuple[str, ...]) -> dict[str, Found]:
    return {kind: tried(kind) for kind in kinds}


@pytest.mark.timeout(3600)
def test_every_decoder_is_exact_or_refused() -> None:
    found: dict[str, Found] = {}
    for first in range(0, len(KINDS), 8):
        ranks = run_ranks(2, every, tuple(KINDS[first : first + 8]), timeout=600)
        assert ranks[0].keys() == ranks[1].keys()
        for kind, one in ranks[0].items():
            assert one.how == ranks[1][kind].how, (kind, one, ranks[1][kind])
            found[kind] = one
            print(kind, *one, flush=True)
    assert not {kind: one for kind, one in found.items() if one.how == "wrong"}
    if KINDS is SOME:
        assert {kind for kind, one in found.items() if one.how == "exact"} == set(SOME[:-2])
        assert {kind for kind, one in found.items() if one.how == "refused"} == set(SOME[-2:])
    else:
        rows = [f"| {kind} | {one.how} | {one.why} |" for kind, one in found.items()]
        (PAGE.parents[1] / "build").mkdir(exist_ok=True)
        (PAGE.parents[1] / "build" / "models.txt").write_text("\n".join(rows), encoding="utf-8")
        listed = dict(re.findall(r"^\| (\S+) \| ([a-z ]+) \|", PAGE.read_text("utf-8"), re.M))
        assert {kind: one.how for kind, one in found.items()} == listed


def test_the_example_of_the_page_trains(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    decoder("llama").save_pretrained(tmp_path / "MODEL")
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "own.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"rank 0: loss ([\d.]+)", done.stdout)]
    assert losses[2] < losses[1] < losses[0]
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "TRAINED")
