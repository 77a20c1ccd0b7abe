"""The command line: what it writes, and one clear line with status 2 for bad input."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.processes import alive, free_port, ranks_of
from zeropp import checkpoint
from zeropp.cli.main import VERBS, main
from zeropp.train.choice import model_of
from zeropp.train.config import ModelConfig

TINY = ["--data.seq-len", "16", "--run.sample", "4", "--run.eval-every", "2"]


def zeropp(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zeropp.cli.main", *arguments]
    return subprocess.run(
        command, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert verb in capsys.readouterr().out.lower()


def test_a_reader_may_stop_reading(tmp_path: Path) -> None:
    generate = f"{sys.executable} -m zeropp.cli.main generate 1f1b --pp 8 --microbatches 512"
    piped = subprocess.run(
        f"{generate} | head -c 10", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert piped.returncode == 0
    assert len(piped.stdout) == 10
    assert piped.stderr == ""


def test_generate_verify_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "z.txt")
    size = ["--pp", "4", "--chunks", "2", "--microbatches", "8", "--unit-size", "4"]
    assert main(["generate", "zeropp", *size, "-o", file]) == 0
    assert main(["verify", file]) == 0
    assert main(["show", file, "-o", str(tmp_path / "z.svg")]) == 0
    assert (tmp_path / "z.svg").stat().st_size > 1000
    broken = Path(file).read_text().replace("0F0 0F1", "0F1 0F1")
    Path(file).write_text(broken)
    capsys.readouterr()
    assert main(["verify", file]) == 1
    assert "0F0 runs 0 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "unknown verb"),
        (["generate", "nonsense"], "unknown schedule"),
        (["generate", "zeropp", "--pp", "0"], "pp must be at least 1"),
        (["generate", "zeropp", "--microbatches", "4", "--unit-size", "9"], "unit_size"),
        (
            ["generate", "1f1b", "--max-resident", "3"],
            "max_resident is of a program; add --program",
        ),
        (["generate", "1f1b", "--prefetch", "2"], "prefetch is of a program; add --program"),
        (["generate", "1f1b", "--shard", "unit"], "shard is of a program; add --program"),
        (["generate", "1f1b", "--split", "1", "2"], "split is of a program; add --program"),
        (["generate", "1f1b", "--recompute", "full"], "recompute is of a program; add --program"),
        (["generate", "1f1b", "--program", "--max-resident", "3"], "max_resident is for gathers"),
        (["generate", "1f1b", "--program", "--prefetch", "0"], "prefetch is for gathers ahead"),
        (["verify", "/nowhere"], "cannot read"),
        (["show", "1f1b", "-o", "x.gif"], "output"),
        (["simulate", "nonsense"], "unknown schedule"),
        (["simulate", "--gather", "-1"], "gather"),
        (["simulate", "--p2p", "nan"], "p2p"),
        (["simulate", "--shard", "often"], "shard"),
        (["simulate", "--chunks", "2", "--slots", "3"], "slots"),
        (["simulate", "--compare", "1f1b,none"], "compare"),
        (["simulate", "--limit", "3"], "limit"),
        (["simulate", "--slots", "auto"], "budget"),
        (["simulate", "zb-v", "--chunks", "2", "--slots", "9"], "leave it out, or refine"),
        (["simulate", "zb-v", "--chunks", "2", "--slots", "7", "--refine"], "holds 8"),
        (["simulate", "--chunks", "2", "--slots", "auto", "--budget", "1"], "at least 2"),
        (["simulate", "--transfer", "-1"], "transfer"),
        (["show", "1f1b", "--costs", "1,nan,1"], "costs"),
        (["show", "1f1b", "--costs", "1,2"], "costs"),
        (["show", "nonsense", "-o", "x.svg"], "unknown schedule"),
        (["show", "1f1b", "--shard", "often", "-o", "x.svg"], "shard"),
        (["show", "1f1b", "--shard", "unit", "--max-resident", "0", "-o", "x.svg"], "max_resident"),
        (["show", "1f1b", "--gather", "-1", "-o", "x.svg"], "gather"),
        (["show", "--compare", "1f1b,none", "-o", "x.svg"], "compare: unknown schedule 'none'"),
        (["show", "--compare", "", "-o", "x.svg"], "compare: unknown schedule ''"),
        (["train", "--parallel.pp-size", "0"], "pp_size"),
        (["train", "--parallel.num-chunks", "0"], "num_chunks"),
        (["train", "--parallel.unit-size", "0"], "unit_size"),
        (["train", "--model.layers", "1"], "fewer than"),
        (["train", "--parallel.schedule", "none"], "unknown schedule"),
        (["train", "--data.path", "/nowhere"], "data.path"),
        (["train", "--run.resume", "/nowhere"], "run.resume"),
        (["train", "--model.size", "none"], "model.size"),
        (["train", "--config", "/nowhere"], "config"),
        (["train", "--plan", "nowhere.toml"], "plan: cannot read nowhere.toml"),
        (["train", "--plan", "p.toml", "--parallel.pp-size", "4"], "parallel: the plan file"),
        (["train", "--run.adapt-every", "-1"], "run.adapt_every must be 0 or more"),
        (["train", "--run.adapt-gain", "2"], "run.adapt_gain must be above 0 and below 1"),
        (["train", "--run.adapt-gain", "1"], "run.adapt_gain must be above 0 and below 1"),
        (
            ["train", "--run.adapt-every", "5", "--parallel.schedule", "interleaved-1f1b"],
            "splits B from W",
        ),
        (["profile", "--ranks", "0"], "ranks must be at least 1"),
        (["profile", "--seq-len", "999"], "seq_len must be from 1 to"),
        (["profile", "--micro-batch-sizes", "0"], "micro_batch_sizes must be at least 1"),
        (["profile", "--recompute", "some"], "recompute must be of none, selective, full"),
        (["profile", "-o", "profile.json"], "output must be a .toml file"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_status_two(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_simulate_refines_an_order_for_its_costs(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--pp", "2", "--chunks", "2", "--microbatches", "4", "--p2p", "0.2", "--json"]
    found = []
    for refining in ([], ["--refine"], ["--refine", "--slots", "5"]):
        assert main(["simulate", "zb-v", *size, *refining]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, refined, wider = (one["makespan"] for one in found)
    assert plain > refined > wider
    assert wider == pytest.approx(found[2]["floor"])


def test_a_file_named_as_a_schedule_does_not_stand_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1f1b").write_text("no schedule")
    assert main(["simulate", "1f1b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == "1f1b"


@pytest.mark.parametrize("named", [["--config=x.toml"], ["--config", "x.toml"]], ids=" ".join)
def test_a_config_file_is_named_either_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text('[parallel]\nschedule = "none"')
    assert main(["train", *named]) == 2
    assert "unknown schedule 'none'" in capsys.readouterr().err


def test_simulate_prints_the_contract_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--pp", "8", "--chunks", "2", "--microbatches", "32"]
    assert main(["simulate", "zeropp", *size, "--shard", "unit", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["makespan"] == pytest.approx(99.5)
    assert report["floor"] == pytest.approx(99.5)
    assert len(report["peak_slots"]) == len(report["gathers"]) == len(report["reduces"]) == 8
    assert max(report["peak_slots"]) <= 8 * 2 + 7
    assert sum(report["idle"].values()) == pytest.approx(report["bubble_ratio"] * 8 * 99.5)


def test_a_budget_chooses_unit_and_slots(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--pp", "4", "--chunks", "2", "--microbatches", "16", "--unit-size", "auto"]
    budget = ["--slots", "auto", "--budget", "32e9", "--slot-bytes", "1e9"]
    assert main(["simulate", "zeropp", *size, *budget, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["units"] == [16]
    assert max(report["peak_slots"]) <= 32


def test_comparing_within_little_memory_recommends_the_peer_that_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = ["--pp", "8", "--chunks", "2", "--microbatches", "32", "--compare", "all"]
    assert main(["simulate", *size, "--limit", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recommended"] == "vee"
    assert main(["simulate", *size, "--limit", "4"]) == 0
    assert "fastest within 4 micro-batches' activations: vee, 107.5" in capsys.readouterr().out
    assert main(["simulate", *size, "--limit", "8"]) == 0
    assert "fastest within 8 micro-batches' activations: zeropp, 99.5" in capsys.readouterr().out
    assert main(["simulate", *size, "--limit", "0.5"]) == 0
    assert "nothing fits 0.5 micro-batches; zeropp needs the least, 1" in capsys.readouterr().out


def test_ranks_that_do_not_match_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", "train"]
    env = os.environ | {"RANK": "0", "WORLD_SIZE": "3"}
    env |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "= 2 ranks, but 3 are running" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("verb", "options", "named"),
    [
        ("train", (["--optim.lr", "1e-3"], ["--optim.lr", "2e-3"]), "optim.lr"),
        ("train", ([], ["--run.steps", "5"]), "run.steps"),
        ("train", ([], ["--rehearse"]), "command"),
        ("profile", (["--seq-len", "16"], ["--seq-len", "32"]), "seq_len"),
    ],
)
def test_options_that_ranks_were_given_differently_are_refused(
    verb: str, options: tuple[list[str], list[str]], named: str, tmp_path: Path
) -> None:
    started = [(tmp_path, [verb, "--model.layers", "2", *given]) for given in options]
    require_refused(started, named)


def require_refused(started: list[tuple[Path, list[str]]], named: str) -> None:
    """Commands in their folders, a rank each, end by one line that names what they have unlike."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = []
    for rank, (cwd, arguments) in enumerate(started):
        command = [sys.executable, "-m", "zeropp.cli.main", *arguments]
        env = os.environ | where | {"RANK": str(rank)}
        ranks.append(subprocess.Popen(command, cwd=cwd, env=env, **pipes))
    for process in ranks:
        _, error = process.communicate(timeout=60)
        assert error == f"zeropp: {named}: ranks [1] were given another than rank 0\n"
        assert process.returncode == 2


def test_text_that_is_another_on_another_host_is_refused(tmp_path: Path) -> None:
    train = ["train", "--data.path", "text.txt", "--run.folder", str(tmp_path / "runs"), *TINY]
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        (tmp_path / host / "text.txt").write_text(f"this is the text of host {host}. " * 500)
    require_refused([(tmp_path / host, train) for host in ("a", "b")], "data.path")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[run]\nsteps = "ten"', "run.steps must be int, got 'ten'"),
        ('[run]\nprecision = "fp8"', "run.precision must be one of fp32, bf16, got 'fp8'"),
        ('[parallel]\nsplit = [3, "a"]', "parallel.split must be tuple[int, ...], got (3, 'a')"),
        ("[run]\nstep = 3", "unknown field run.step; use steps\n"),
        ("run = 3", "run must be a table, got 3"),
        ("[runs]", "unknown field runs; use run\n"),
        ("[optim]\nlr = 0", "optim.lr must be above 0"),
        ("[run", "cannot read"),
    ],
)
def test_a_config_file_is_refused_by_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(content, encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("zeropp: config: ")
    assert message in error
    assert str(path) in error


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three steps, runs/a."""
    folder = tmp_path_factory.mktemp("trained")
    done = zeropp("train", "--run.name", "a", "--run.steps", "3", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def steps_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_train_leaves_a_run_and_resumes_in_another_layout(trained: Path) -> None:
    run = trained / "runs" / "a"
    for name in ("config.toml", "timeline.png", "sample.txt", "checkpoints/step-3/.metadata"):
        assert (run / name).stat().st_size > 0
    steps = steps_of(run)
    assert [s["step"] for s in steps] == [1, 2, 3]
    assert {"loss", "grad_norm", "tokens_per_s", "step_s"} <= steps[0].keys()
    assert "val_loss" in steps[-1]
    saved = str(run / "checkpoints" / "step-3")
    one_rank = ["--parallel.pp-size", "1", "--parallel.num-chunks", "1", "--run.steps", "4"]
    done = zeropp("train", "--run.name", "b", "--run.resume", saved, *one_rank, *TINY, cwd=trained)
    assert done.returncode == 0, done.stderr
    (step,) = steps_of(trained / "runs" / "b")
    assert step["step"] == 4
    assert step["loss"] < steps[0]["loss"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_was_trained_goes_out_under_global_names(trained: Path) -> None:
    done = zeropp("export", "runs/a", "-o", "OUT", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "safetensors under global names such as 1.attention.out.weight" in done.stdout
    files = sorted((trained / "OUT").glob("*.safetensors"))
    held = {name: tensor for file in files for name, tensor in load_file(file).items()}
    blocks = model_of(ModelConfig()).blocks
    wanted = {
        f"{index}.{name}": tensor.shape
        for index, block in enumerate(blocks)
        for name, tensor in block.state_dict().items()
    }
    assert {name: tensor.shape for name, tensor in held.items()} == wanted
    read = dict(checkpoint.stored(trained / "runs" / "a" / "checkpoints" / "step-3", blocks))
    assert torch.equal(held["3.attention.qkv.weight"], read[3]["attention.qkv.weight"])


def test_train_refuses_a_run_that_is_there_and_another_models_checkpoint(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert main(["train", "--run.name", "a"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    other = ["--run.name", "c", "--run.resume", "runs/a/checkpoints/step-3", "--model.layers", "6"]
    assert main(["train", *other]) == 2
    assert "is of another model" in capsys.readouterr().err


def test_a_rank_that_dies_stops_the_run_and_leaves_no_orphan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", "train", "--run.steps", "5000", *TINY]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as run:
        try:
            ranks = _wait_for_steps(run, tmp_path)
            os.kill(ranks[0], signal.SIGKILL)
            output, _ = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 1
    assert "SIGKILL" in output
    assert not any(alive(rank) for rank in ranks)


def _wait_for_steps(run: "subprocess.Popen[str]", folder: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while not (folder / "runs" / "demo" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.1)
    spawned = ranks_of(run.pid)
    assert len(spawned) == 2
    return spawned


def test_an_error_on_a_rank_shows_its_traceback_and_the_cause_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "import torch\ndef step(*_): raise OSError('a fault')\ntorch.optim.AdamW.step = step\n"
    (tmp_path / "sitecustomize.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = zeropp("train", "--run.steps", "4", *TINY, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    *trace, cause = done.stderr.splitlines()
    assert re.fullmatch(r"zeropp: rank [01] failed: OSError: a fault", cause)
    assert any("sitecustomize.py" in line for line in trace)
    assert len(trace) < 20


def test_a_damaged_checkpoint_is_refused_in_one_line(trained: Path, tmp_path: Path) -> None:
    whole = trained / "runs" / "a" / "checkpoints" / "step-3"
    shutil.copytree(whole, tmp_path / "cut")
    with (tmp_path / "cut" / "__1_0.distcp").open("r+b") as file:
        file.truncate(1000)
    shutil.copytree(whole, tmp_path / "garbled")
    with (tmp_path / "garbled" / "__0_0.distcp").open("r+b") as file:
        file.write(bytes(10**6))
    for name, why in (("cut", "has 1000 bytes of"), ("garbled", "is damaged")):
        resume = ["--run.name", name, "--run.resume", str(tmp_path / name), "--run.steps", "4"]
        done = zeropp("train", *resume, cwd=tmp_path, timeout=60)
        assert done.returncode == 2
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_checkpoint_that_would_run_code_is_refused(trained: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "proof"),)

    shutil.copytree(trained / "runs" / "a" / "checkpoints" / "step-3", tmp_path / "evil")
    (tmp_path / "evil" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"its \.metadata asks for posix\.mkdir"):
        checkpoint.read(tmp_path / "evil")
    assert not (tmp_path / "proof").exists()


def test_a_rehearsal_runs_the_program_and_leaves_nothing(tmp_path: Path) -> None:
    sizes = ["--parallel.dp-shard", "2", "--parallel.num-microbatches", "4"]
    done = zeropp("train", "--rehearse", *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 ranks ran the program of zeropp: 48 compute actions of 10 ms" in done.stdout
    assert "measured (" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_compiled_blocks_train_alike(trained: Path) -> None:
    run = ["--run.name", "compiled", "--run.compile", "aot_eager", "--run.steps", "3", *TINY]
    done = zeropp("train", *run, cwd=trained)
    assert done.returncode == 0, done.stderr
    eager, compiled = (
        [s["loss"] for s in steps_of(trained / "runs" / n)] for n in ("a", "compiled")
    )
    assert compiled == pytest.approx(eager, rel=1e-5)
