"""How fast tokens are made, what a batch of them costs, and what memory they take.

Run: python benchmarks/tokens.py [--json]; 5 GB below the temporary folder, eight minutes.

Commands are timed whole, with the start of Python and of their processes. The text is Python's
standard library, over and over; the library `tokenizers` alone reads the same files, in batches
over its own threads (`encode_batch_fast`), and writes the tokens of each. Both sides run in turn,
five times, and the fastest of each are compared, as a machine may have other work.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from support.claim import Figure, Row, run
from support.memory import anonymous
from zeropp.tokens import load_corpus
from zeropp.tokens.files import Encoded, writing
from zeropp.tokens.sources import standard_library
from zeropp.train.choice import model_of
from zeropp.train.config import Config, RunConfig
from zeropp.train.data import open_corpus

CLAIM = "Tokens are made as fast as they can be, and read for nothing"
REPEATS = 5
MIB = 2**20
ALONE = """
import sys
import numpy as np
from pathlib import Path
from tokenizers import Tokenizer

library, files = Tokenizer.from_file(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())
with open("alone", "wb") as output:
    for at in range(0, len(files), 256):
        texts = [file.read_bytes().decode() for file in files[at : at + 256]]
        for found in library.encode_batch_fast(texts, add_special_tokens=False):
            output.write(np.array([*found.ids, 0], np.uint16).tobytes())
"""


def write_text(folder: Path, size: int) -> None:
    """The standard library's files, again and again under other names, of so many bytes."""
    folder.mkdir()
    texts = [Path(source.path).read_bytes() for source in standard_library()]
    number = 0
    while size > 0:
        for text in texts:
            if text and size > 0:
                (folder / f"{number:06}.py").write_bytes(text)
                size, number = size - len(text), number + 1


def train_tokenizer(path: Path) -> None:
    """A byte-level BPE of 4,096 tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train([source.path for source in standard_library()], trainer)
    made.save(str(path))


def seconds(folder: Path, *arguments: str) -> float:
    """What a command takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def tokenized(folder: Path, text: str, tokenizer: str) -> float:
    """Seconds of `zeropp tokenize`."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    options = "--tokenizer", tokenizer, "-o", "out"
    return seconds(folder, "-m", "zeropp.cli.main", "tokenize", text, *options)


def making(folder: Path) -> tuple[list[Row], list[Figure]]:
    """Bytes, and a BPE against the library alone."""
    write_text(folder / "large", 256 * MIB)
    rates = [256 * MIB / 1e6 / tokenized(folder, "large", "bytes") for _ in range(REPEATS)]
    shutil.rmtree(folder / "large")
    write_text(folder / "text", 48 * MIB)
    train_tokenizer(folder / "tokenizer.json")
    rows: list[Row] = [{"tokenizer": "bytes", "MB/s": rate} for rate in rates]
    ours, alone = [], []
    for _ in range(REPEATS):
        ours.append(tokenized(folder, "text", "tokenizer.json"))
        alone.append(seconds(folder, "-c", ALONE, "tokenizer.json", "text"))
        rows.append({"tokenizer": "BPE", "ours s": ours[-1], "alone s": alone[-1]})
    made = sorted((folder / "out").glob("*.ds"))
    if b"".join(map(Path.read_bytes, made)) != (folder / "alone").read_bytes():
        raise AssertionError("both sides must make the same tokens")
    return rows, [
        Figure("bytes, median", median(rates), 40, "MB/s", at_least=True),
        Figure("BPE, over the library alone", min(ours) / min(alone), 1.2, "times"),
    ]


def reading(folder: Path) -> tuple[list[Row], list[Figure]]:
    """A batch of the demo, over a step of the demo."""
    options = "--run.folder", str(folder / "runs"), "--run.steps", "40", "--run.sample", "0"
    seconds(folder, "-m", "zeropp.cli.main", "train", *options)
    lines = (folder / "runs" / "demo" / "metrics.jsonl").read_text().splitlines()
    step = median(json.loads(line)["step_s"] for line in lines[5:])
    config = Config(run=RunConfig(folder=str(folder / "runs")))
    corpus, times = open_corpus(config, model_of(config.model)), []
    size = config.data.micro_batch_size * config.parallel.num_microbatches
    for number in range(300):
        start = time.perf_counter()
        corpus.batch("train", number, size)
        times.append(time.perf_counter() - start)
    row = {"step ms": step * 1e3, "batch ms": median(times) * 1e3, "windows": size}
    return [row], [Figure("a batch, over a step of the demo", median(times) / step * 100, 1)]


def write_tokens(path: Path, size: int) -> None:
    """So many bytes of tokens, in documents of about 1,000."""
    draw, dtype = np.random.default_rng(0), np.dtype("<u2")
    with writing("output", path, dtype, "none") as writer:
        while writer.count * dtype.itemsize < size:
            document = draw.integers(0, 50_000, draw.integers(500, 1500), dtype)
            writer.add(Encoded(document), ends=True)


def held_by(path: Path) -> int:
    """Bytes of RssAnon after 300 batches of 8 windows of 2,048 tokens, from all over."""
    corpus = load_corpus(path, length=2048, stride=2048)
    for number in range(300):
        corpus.batch("train", number, 8)
    return anonymous()


def memory(folder: Path) -> tuple[list[Row], list[Figure]]:
    """Of processes that read much and little."""
    found = {}
    for size in (2 * 10**6, 2 * 10**9):
        write_tokens(folder / f"{size}.ds", size)
        with get_context("spawn").Pool(1) as pool:
            found[size] = pool.apply(held_by, (folder / f"{size}.ds",)) / MIB
    small, large = found.values()
    rows: list[Row] = [{"tokens MB": size / 1e6, "MiB": held} for size, held in found.items()]
    return rows, [Figure("RssAnon with 2 GB of tokens, over 2 MB", large - small, 150, "MiB")]


def measure() -> tuple[list[Row], list[Figure]]:
    """All of it."""
    rows, figures = [], []
    for part in (reading, making, memory):
        with tempfile.TemporaryDirectory() as folder:
            found = part(Path(folder))
            rows += found[0]
            figures += found[1]
    return rows, figures


if __name__ == "__main__":
    run(CLAIM, measure)
