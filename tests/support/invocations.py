"""Invocations that are refused, each with what its one line names, and the files that they want."""

import os
from collections.abc import Mapping
from pathlib import Path

from zeropp.generate import generate
from zeropp.ir import Order, format_program, format_schedule
from zeropp.plan import Plan
from zeropp.planner import SavedPlan
from zeropp.planner.plan_file import format_plan
from zeropp.program import lower

LONG = "x" * 300
TOKENIZE = ("tokenize", "--tokenizer", "bytes", "-o", "new")
PLAN = ("plan", "--model", "toy", "--gpus", "2", "--global-batch", "16")


def _texts() -> Mapping[str, str]:
    schedule = generate(Order("1f1b"), 2, 1, 3)
    text, program = format_schedule(schedule), format_program(lower(schedule, "unit"))
    plan = format_plan(SavedPlan(Plan(2, 2, 8), 1))
    return {
        "ok.txt": text,
        "program.txt": program,
        "units.txt": text.replace("units: 3", "units: 99999999999"),
        "chunks.txt": text.replace("num_chunks: 1", "num_chunks: 9999999999"),
        "pp.txt": text.replace("pp_size: 2", "pp_size: 9999999999"),
        "digits.txt": text.replace("pp_size: 2", "pp_size: " + 5000 * "9"),
        "shard.txt": program.replace("shard: unit", "shard: banana"),
        "last.txt": program.replace("1REDUCE", "1REDUCE 1SEND_F0"),
        "far.txt": program.replace("1REDUCE", "1REDUCE 9SEND_F0"),
        "empty.txt": text.partition("rank 1:")[0] + "rank 1:\n",
        "nothing.txt": "",
        "lr.toml": "[optim]\nlr = inf\n",
        "clip.toml": "[optim]\nclip = 1e300\n",
        "steps.toml": "[run]\nsteps = true\n",
        "seed.toml": "[run]\nseed = 99999999999999999999999999999\n",
        "size.toml": plan.replace("micro_batch_size = 1", "micro_batch_size = true"),
        "predicted.toml": f"predicted = 3\n{plan}",
        "step.toml": f"{plan}\n[predicted]\nstep_s = 'x'\npeak_bytes = 1.0\n",
        "plan.toml": plan,
        "bad.jsonl": '{"text": "a"}\n{"text": 1}\n',
        "tokenizer.json": "{}",
        "layers.toml": "vocab_size=9\nseq_len=9\nlayers=99999999999\nhidden=8\nheads=1\n",
    }


def make_files(folder: Path) -> None:
    """Files that are wrong in some way, and one of each special kind."""
    for name, text in _texts().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"zeropp \xff")
    os.mkfifo(folder / "pipe")
    for name, content in {"folder": b"", "garbage": b"\x80garbage", "none": b""}.items():
        (folder / name).mkdir()
        (folder / name / ".metadata").write_bytes(content)


FILES: list[tuple[str, tuple[str, ...]]] = [
    *(
        ("output", (*verb, "-o", path.format(suffix)))
        for verb, suffix in {
            ("generate", "zeropp"): ".txt",
            ("show", "1f1b"): ".svg",
            PLAN: ".toml",
            ("profile",): ".toml",
        }.items()
        for path in ("folder", "/proc/x{}", "", LONG + "{}", "ok.txt/x{}", "nowhere/x{}")
    ),
    ("output", ("generate", "zeropp", "-o", "/dev/full")),
    ("output", ("generate", "zeropp", "-o", "pipe")),
    ("explain", (*PLAN, "--explain", "/proc/x.svg")),
    *(("file", ("verify", path)) for path in ("folder", "", LONG, "pipe", "latin.txt", "no.txt")),
    *(("file", ("simulate", path)) for path in ("folder", "pipe", "latin.txt")),
    *(("file", ("verify", path)) for path in ("nothing.txt", "/dev/zero", "digits.txt")),
    ("num_chunks, units", ("verify", "units.txt")),
    ("num_chunks, units", ("verify", "chunks.txt")),
    ("num_chunks, units", ("verify", "pp.txt")),
    ("shard must be one of", ("verify", "shard.txt")),
    ("shard must be one of", ("simulate", "shard.txt", "--gather", "1")),
    ("do not both exist", ("simulate", "last.txt")),
    ("9SEND_F0", ("show", "far.txt")),
    ("1F0 runs 0 times", ("simulate", "empty.txt")),
    ("config", ("train", "--config", "pipe")),
    ("config", ("train", "--config", "latin.txt")),
    ("program", ("train", "--program", "pipe")),
    ("plan", ("train", "--plan", "folder")),
    ("plan: size.toml: micro_batch_size", ("train", "--plan", "size.toml")),
    ("plan: predicted.toml: predicted", ("train", "--plan", "predicted.toml")),
    ("plan: step.toml: predicted.step_s", ("train", "--plan", "step.toml")),
    ("layers", ("plan", "--model", "layers.toml", *PLAN[3:])),
    ("run.steps", ("train", "--config", "steps.toml")),
    ("run.seed", ("train", "--config", "seed.toml")),
    ("optim.lr", ("train", "--config", "lr.toml")),
    ("optim.clip", ("train", "--config", "clip.toml")),
    *(("run.name", ("train", "--run.name", name)) for name in ("..", ".", "", " ", "a\nb", "a/b")),
    *(("files", (*TOKENIZE, path)) for path in ("no.txt", "pipe", "folder", LONG)),
    ("files: bad.jsonl, line 2: its 'text'", (*TOKENIZE, "bad.jsonl")),
    (
        "files: bad.jsonl, line 1: it has no field 'body'",
        (*TOKENIZE, "bad.jsonl", "--field", "body"),
    ),
    *(
        ("output", (*TOKENIZE[:-1], path, "ok.txt"))
        for path in ("folder", "/proc/x", "", "ok.txt", LONG)
    ),
    *(
        ("tokenizer", ("tokenize", "ok.txt", "-o", "new", "--tokenizer", name))
        for name in ("nowhere", "folder", "tokenizer.json", "", LONG)
    ),
    ("not UTF-8", ("train", "--data.path", "\udcff")),
    ("run.resume", ("train", "--run.resume", "")),
    *(("run.folder", ("train", "--run.folder", path)) for path in ("", "a\0b")),
]

NUMBERS = [
    *(("p2p", ("generate", "zeropp", "--p2p", value)) for value in ("1e308", "inf", "nan", "-1")),
    ("costs", ("generate", "zeropp", "--p2p", "1e17")),
    ("costs", ("generate", "zeropp", "--costs", "1e-320,1,1")),
    ("pp", ("generate", "1f1b", "--pp", "99999999999")),
    ("pp_size", ("generate", "1f1b", "--pp", "9999999")),
    ("microbatches", ("generate", "1f1b", "--microbatches", "99999999999")),
    ("num_microbatches", ("generate", "1f1b", "--microbatches", "9999999")),
    ("slot_bytes", ("generate", "zeropp", "--slot-bytes", "-1")),
    ("slot_bytes", ("generate", "zeropp", "--slot-bytes", "2")),
    ("max_resident", ("simulate", "zeropp", "--max-resident", "0")),
    ("max_resident", ("show", "zeropp", "--max-resident", "1")),
    ("prefetch", ("simulate", "zeropp", "--prefetch", "-1")),
    ("shard", ("simulate", "program.txt", "--shard", "unit")),
    ("chunks", ("simulate", "ok.txt", "--chunks", "2")),
    ("slots", ("verify", "ok.txt", "--slots", "-3")),
    ("limit", ("simulate", "--compare", "all", "--limit", "inf")),
    ("budget", ("simulate", "--slots", "auto", "--budget", "1e400")),
    ("memory", (*PLAN, "--memory", "inf")),
    ("gpus", ("plan", "--model", "toy", "--gpus", "99999999999", "--global-batch", "8")),
    ("ranks", ("profile", "--ranks", "99999999999")),
    *(("optim.lr", ("train", "--optim.lr", value)) for value in ("inf", "1e400", "nan", "0")),
    *(("optim.weight_decay", ("train", "--optim.weight-decay", v)) for v in ("nan", "inf", "-1")),
    ("run.steps", ("train", "--run.steps", "99999999999")),
    ("dp_shard", ("train", "--parallel.dp-shard", "99999999999")),
    ("data.micro_batch_size", ("train", "--data.micro-batch-size", "9999999")),
    ("layers", ("train", "--model.layers", "99999")),
]

WORDS = [
    ("--pp", ("generate", "1f1b", "--pp", "x")),
    ("--ppp", ("generate", "1f1b", "--ppp", "3")),
    ("STR", ("generate",)),
    ("files", ("tokenize", "--tokenizer", "bytes", "-o", "new")),
    ("--tokenizer", ("tokenize", "ok.txt", "-o", "new")),
    ("PATH", ("verify",)),
    ("--unit-size", ("simulate", "--unit-size", "1.5")),
    ("--run.precision", ("train", "--run.precision", "fp8")),
    ("--run.steps", ("train", "--run.steps")),
    ("--gpus", ("plan", "--model", "toy")),
    ("--split", (*PLAN, "--split", "1", "x")),
    ("extra", ("schedules", "extra")),
    ("unknown verb", ("nonsense",)),
]

EARLY = [*FILES, *NUMBERS, *WORDS]

# what is looked at when torch is there: a run's folder, its text, its checkpoint, and its ranks
LATE: list[tuple[str, tuple[str, ...]]] = [
    *(("run.resume", ("train", "--run.resume", path)) for path in ("garbage", "none", "pipe")),
    *(
        ("run.folder", ("train", "--run.folder", path))
        for path in ("/proc/x", "ok.txt", "/dev/null/x", f"new/{LONG}")
    ),
    ("run.folder", ("train", "--run.name", LONG)),
    *(
        ("data.path", ("train", "--data.path", path))
        for path in ("pipe", "no.txt", "nothing.txt", LONG)
    ),
    ("data.path: bad.jsonl, line 2: its 'text'", ("train", "--data.path", "bad.jsonl")),
    ("data.seq_len", ("train", "--data.path", "lr.toml")),
    ("ranks", ("profile", "--ranks", "9999999")),
    ("ranks", ("train", "--parallel.dp-shard", "999")),
]
