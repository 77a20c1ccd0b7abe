"""Weights of a folder of transformers come into a pipeline, sharded, and go out again."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import zeropp
from support.decoders import LAYERS, adapted, decoder, plain, tokens
from support.exactness import relative_error, whole
from support.ranks import run_ranks
from support.spoiled import BAD
from zeropp import Plan, hf
from zeropp.runtime.mesh import data_rank

SEVEN = ["llama", "llama tied", "qwen3", "mistral", "gemma3", "gpt2", "mixtral", "qwen3-moe"]
PLANS = {
    2: [Plan(2, 2, 4, unit_size=2), Plan(1, 2, 4, dp_shard=2, max_resident=1)],
    4: [Plan(2, 2, 4, "zb-v", dp_shard=2, max_resident=1)],
}
RANKS = [2, pytest.param(4, marks=pytest.mark.nightly)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models as transformers saves them, in several files."""
    made = {}
    for name in SEVEN:
        made[name] = tmp_path_factory.mktemp("models") / name
        decoder(name).save_pretrained(made[name], max_shard_size="40KB")
    return made


def imported(folders: dict[str, Path], plans: list[Plan]) -> dict[str, float]:
    return {
        f"{name} {plan.pp_size} {plan.dp_size}": _imported(name, folder, plan)
        for name, folder in folders.items()
        for plan in plans
    }


def exported(folders: dict[str, Path], plans: list[Plan], target: Path) -> None:
    for name, folder in folders.items():
        for number, plan in enumerate(plans):
            _exported(folder, plan, target / f"{name} {number}")


def _exported(folder: Path, plan: Plan, target: Path) -> None:
    """As it came and, after three steps, with the logits of the pipeline."""
    model = hf.on_meta(folder)
    given: dict[str, Any] = {"tokens": hf.count_tokens, "load": hf.load(folder, model)}
    ids, labels = tokens(8)
    with closing(zeropp.pipeline(hf.blocks(model), hf.loss(model), plan, **given)) as pipe:
        hf.save(pipe, model, Path(f"{target} as it came"))
        optimizer = torch.optim.AdamW(pipe.parameters(), lr=1e-2)
        for _ in range(3):
            pipe.step((ids, labels))
            optimizer.step()
            optimizer.zero_grad()
        logits = pipe.predict(ids)
        hf.save(pipe, model, target)
        if logits is not None and data_rank(pipe.mesh) == 0:
            save_file({"logits": logits[0][0]}, f"{target}.logits")


def _imported(name: str, folder: Path, plan: Plan) -> float:
    """The worst difference of a parameter, and the relative one of the loss."""
    model = hf.on_meta(folder)
    given: dict[str, Any] = {"tokens": hf.count_tokens, "load": hf.load(folder, model)}
    wanted = decoder(name)
    ids, labels = tokens(8 * plan.dp_size)
    loss, _ = plain(wanted, ids, labels, 4 * plan.dp_size)
    with closing(zeropp.pipeline(hf.blocks(model), hf.loss(model), plan, **given)) as pipe:
        worst = 0.0
        for key, parameter in pipe.named_parameters():
            own = wanted.get_parameter(hf.hf_name(key)).detach()
            worst = max(worst, float((whole(parameter) - own).abs().max()))
        own = slice(data_rank(pipe.mesh) * 8, data_rank(pipe.mesh) * 8 + 8)
        out = pipe.step((ids[own], labels[own]))
    assert worst == 0
    return relative_error(out.loss, out.loss.new_tensor(loss))


@pytest.mark.parametrize("world_size", RANKS)
def test_weights_come_in_bit_by_bit(folders: dict[str, Path], world_size: int) -> None:
    for found in run_ranks(world_size, imported, folders, PLANS[world_size], timeout=200):
        assert all(error <= 1e-6 for error in found.values()), found


@pytest.mark.parametrize("world_size", RANKS)
def test_what_comes_out_is_what_transformers_reads(
    folders: dict[str, Path], world_size: int, tmp_path: Path
) -> None:
    plans = PLANS[world_size]
    run_ranks(world_size, exported, folders, plans, tmp_path, timeout=250)
    ids, _ = tokens(8)
    for name, folder in folders.items():
        for number in range(len(plans)):
            target = tmp_path / f"{name} {number}"
            came = _tensors(Path(f"{target} as it came"))
            assert came.keys() == _tensors(folder).keys()
            assert all(torch.equal(came[key], value) for key, value in _tensors(folder).items())
            trained, found = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
            assert not found["missing_keys"]
            assert not found["unexpected_keys"]
            with torch.no_grad():
                logits = trained.eval()(input_ids=ids, use_cache=False).logits
            wanted = load_file(f"{target}.logits")["logits"]
            assert relative_error(logits, wanted) <= 1e-5


def _tensors(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def refused(folders: list[Path]) -> list[str]:
    """What each rank says of each."""
    lines = []
    for folder in folders:
        try:
            model = hf.on_meta(folder)
            given: dict[str, Any] = {"load": hf.load(folder, model), "tokens": hf.count_tokens}
            zeropp.pipeline(hf.blocks(model), hf.loss(model), PLANS[2][0], **given).close()
            lines.append("")
        except ValueError as error:
            lines.append(str(error))
    return lines


def test_a_bad_folder_is_refused_in_one_line_on_every_rank(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copies, wanted = [], []
    for spoil in BAD:
        copies.append(tmp_path / spoil.__name__)
        shutil.copytree(folders["llama"], copies[-1])
        wanted.append(spoil(copies[-1]))
    for lines in run_ranks(2, refused, copies, timeout=200):
        for line, part in zip(lines, wanted, strict=True):
            assert part in line
            assert "\n" not in line


def test_a_folder_that_is_there_is_not_written_over(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "something").touch()
    for line in run_ranks(2, _saved, folders["llama"], tmp_path / "there"):
        assert "it is there already; name a new folder" in line
    assert not list(tmp_path.glob(".*"))


def _saved(folder: Path, target: Path) -> str:
    model = hf.on_meta(folder)
    given: dict[str, Any] = {"load": hf.load(folder, model), "tokens": hf.count_tokens}
    made = zeropp.pipeline(hf.blocks(model), hf.loss(model), PLANS[2][0], **given)
    with closing(made) as pipe, pytest.raises(ValueError, match="there already") as refusal:
        hf.save(pipe, model, target)
    return str(refusal.value)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_adapters_go_out_in_the_format_of_peft(tmp_path: Path) -> None:
    run_ranks(2, _adapters_saved, tmp_path / "adapters", timeout=120)
    loaded = peft.PeftModel.from_pretrained(decoder("llama"), tmp_path / "adapters")
    wanted = dict(adapted("llama").named_parameters())
    trained = [name for name, p in wanted.items() if p.requires_grad]
    assert len(trained) == 3 * LAYERS * 2 + 1
    found = dict(loaded.named_parameters())
    assert all(torch.equal(found[name], wanted[name]) for name in trained)


def _adapters_saved(target: Path) -> None:
    model = adapted("llama")
    plan, given = PLANS[2][1], {"tokens": hf.count_tokens}
    with closing(zeropp.pipeline(hf.blocks(model), hf.loss(model), plan, **given)) as pipe:
        hf.save(pipe, model, target)
