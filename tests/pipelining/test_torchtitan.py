"""torchtitan's own Trainer in our orders: losses and norms equal its own schedules'.

It needs torchtitan, in an environment of its own: make test-torchtitan.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.titan import STEPS, Case
from zeropp.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "torchtitan.md").read_text("utf-8")
UNITS = {"unit_size": 2, "shard": "unit", "max_resident": 1}
pytestmark = pytest.mark.titan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, a tokenizer, the page's configuration, and an order as torch's CSV."""
    from support.bpe import trained

    made = tmp_path_factory.mktemp("titan")
    for name in ("text", "tokenizer"):
        (made / name).mkdir()
    lines = [{"text": f"{a} times {b} is {a * b}. " * 6} for a in range(40) for b in range(30)]
    (made / "text" / "data.json").write_text("\n".join(map(json.dumps, lines)))
    trained(begin=True).save(str(made / "tokenizer" / "tokenizer.json"))
    tokens = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    (made / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(tokens))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (made / "mine.py").write_text(code)
    (command,) = re.findall(r"^    zeropp (.*) -o order.csv$", PAGE, re.M)
    assert main([*command.split(), "-o", str(made / "order.csv")]) == 0
    return made


def results(folder: Path, *cases: Case) -> list[dict[str, Any]]:
    """Of each case, what the rank of the last stage has logged; all of one number of ranks."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    script = str(ROOT / "tests" / "support" / "titan.py")
    command = [*run, str(2 * cases[0].D), script, str(folder), *(case.text for case in cases)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled"}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(folder)])
    environment = os.environ | offline | {"PYTHONPATH": paths}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    told: dict[str, list[dict[str, Any]]] = {}
    for rank, text in re.findall(r"^RESULT (\d+) (.*)$", done.stdout, re.M):
        told.setdefault(rank, []).append(json.loads(text))
    assert done.returncode == 0, done.stderr[-4000:]
    found = []
    for each in zip(*told.values(), strict=True):
        said = [rank["refused"] for rank in each if "refused" in rank]
        refused = {"refused": "\n".join(said)} if said else {}
        found.append(max(each, key=lambda rank: rank["losses"] or [0]) | refused)
    assert len(found) == len(cases)
    return found


def require_same(ours: dict[str, Any], theirs: dict[str, Any], allowed: float = 1e-5) -> None:
    assert "refused" not in ours, ours
    assert (ours["split"] > 8, theirs["split"]) == (True, 0)
    for name, number in (("losses", STEPS), ("norms", STEPS), ("validation", 2)):
        assert len(ours[name]) == number
        if theirs[name] or name != "validation":
            assert ours[name] == pytest.approx(theirs[name], rel=allowed), name
    assert ours["losses"][-1] < 0.8 * ours["losses"][0]


def test_losses_and_norms_are_its_own(folder: Path) -> None:
    own, whole, *ours = results(
        folder,
        Case(),
        Case(chunked=True),
        Case(zeropp={"unit_size": 2}),
        Case(zeropp={"unit_size": 2, "seam": "drain"}, recompute="full"),
        Case(zeropp=UNITS, recompute="none", backend="partial_dtensor"),
        Case(zeropp={"program": str(folder / "order.csv")}),
    )
    for one in ours:
        require_same(one, own)
    (chunked,) = results(folder, Case(zeropp={"unit_size": 2}, chunked=True, page=True))
    require_same(chunked, whole)


@pytest.mark.parametrize(
    ("theirs", "options"),
    [
        (Case(lay="1F1B"), {"unit_size": 2}),
        (Case(layers_per_stage=1), {"unit_size": 2, "seam": "drain"}),
        # torch's split fails with selective checkpointing, and its eval in a vee
        (Case(lay="ZBVZeroBubble", recompute="none", validates=False), {"schedule": "zb-v"}),
    ],
    ids=["one stage a rank", "four stages a rank", "a vee"],
)
def test_other_numbers_of_stages_and_placements(
    folder: Path, theirs: Case, options: dict[str, Any]
) -> None:
    ours = Case(zeropp=options, lay=theirs.lay, layers_per_stage=theirs.layers_per_stage)
    found = results(folder, theirs, ours)
    require_same(found[1], found[0])


@pytest.mark.parametrize("options", [{"unit_size": 2}, UNITS], ids=["torch's", "units"])
def test_sharded_over_two_ranks(folder: Path, options: dict[str, Any]) -> None:
    # its meshes do not outlive a trainer of this size
    (theirs,), (ours,) = results(folder, Case(D=2)), results(folder, Case(D=2, zeropp=options))
    require_same(ours, theirs)


def test_in_bf16_as_near_as_its_own(folder: Path) -> None:
    theirs, ours = results(folder, Case(low=True), Case(low=True, zeropp=UNITS))
    require_same(ours, theirs, 1e-2)


def test_its_csv_option_runs_our_order_and_its_selective_checkpointing_fails_there(
    folder: Path,
) -> None:
    given = {"parallelism.pipeline_parallel_schedule_csv": str(folder / "order.csv")}
    own, csv, failing = results(
        folder, Case(), Case(options=given, recompute="full"), Case(options=given)
    )
    assert csv["losses"] == pytest.approx(own["losses"], rel=1e-5)
    assert csv["norms"] == pytest.approx(own["norms"], rel=1e-5)
    assert "Trying to backward an extra time" in failing["refused"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compile.enable": True}, "compile.components: torchtitan compiles whole layers"),
        ({"parallelism.tensor_parallel_degree": 2}, "tensor_parallel_degree: not split yet"),
        ({"parallelism.context_parallel_degree": 2}, "context_parallel_degree: not split yet"),
        ({"parallelism.pipeline_parallel_schedule_csv": "x.csv"}, "give the file to zeropp as"),
        ({"parallelism.pipeline_parallel_schedule": "ZBVZeroBubble"}, "lays them as a loop"),
    ],
    ids=["compile", "tensor", "context", "csv", "vee"],
)
def test_what_it_cannot_do_is_refused(folder: Path, options: dict[str, Any], says: str) -> None:
    degree = 2 if any("parallel_degree" in name for name in options) else 1
    one = {"parallelism.data_parallel_shard_degree": 1}
    (found,) = results(folder, Case(degree, {"unit_size": 2}, options=one | options))
    assert found["refused"].startswith("ValueError: ")
    assert says in found["refused"]
