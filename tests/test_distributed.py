"""One run in several processes: torchrun with 2 or 4 takes the steps that one process takes.

The tests run this file under torchrun: every process writes down what it got, and one process alone is the reference.
"""

import json
import math
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from conftest import TEXTS, tiny
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.testing import assert_close

from minigpt import IGNORE, Batch, Tokenizer, TrainConfig, train
from minigpt.fast import processes
from scripts.support.torchrun import joined
from sft import Example, Message, fine_tune

ROOT = Path(__file__).parent.parent
CASES = {
    "unequal targets": dict(rows=8),
    "rows that do not divide": dict(rows=5),
    "fewer rows than processes": dict(rows=1),
    "a process without a target": dict(rows=4, learnt=lambda row: row == 2),
    "unequal numbers of pieces": dict(rows=5, micro_batches=3),
    "one row a piece": dict(rows=8, micro_batches=8),
    "clipped": dict(rows=8, clip=1e-2, micro_batches=2),
    "muon": dict(rows=7, optimizer="muon"),
    "compiled": dict(rows=6, compiled=True),
    "a layer that nothing uses": dict(rows=4, idle=True),
    "fine-tuned": dict(demonstrations=True),
}


def batches(rows: int, learnt=lambda row: True):
    """Row i learns i + 1 targets, or none."""

    def batch(step: int) -> Batch:
        ids = torch.randint(29, (rows, 13), generator=torch.Generator().manual_seed(step))
        count = torch.tensor([row + 1 if learnt(row) else 0 for row in range(rows)])
        return Batch(ids[:, :-1], torch.where(torch.arange(12) < count[:, None], ids[:, 1:], IGNORE))

    return batch


def results(rows=0, learnt=lambda row: True, demonstrations=False, compiled=False, idle=False, **changes) -> dict:
    """What three steps give: losses, norms, counts, the last gradients, if there are any, and the weights."""
    config = TrainConfig(**dict(steps=3, lr=1e-2, warmup=2) | changes)
    if demonstrations:
        tok = Tokenizer.train(TEXTS, 300)
        model = tiny(vocab_size=tok.vocab_size, context_length=48)
        examples = [Example([Message("user", f"Say {i}"), Message("assistant", "so " * i)], "") for i in range(1, 6)]
        steps = fine_tune(model, tok, examples, config, batch_size=3)
    else:
        model = tiny()
        if idle:
            model.idle = torch.nn.Linear(3, 3, dtype=torch.float64)
            torch.nn.init.ones_(model.idle.weight), torch.nn.init.ones_(model.idle.bias)
        eager = torch.compile(model, backend="eager") if compiled else None
        steps = train(model, batches(rows, learnt), config, compiled=eager)
    steps = list(steps)
    found = {name: torch.tensor([getattr(s, name) for s in steps]) for name in ("loss", "grad_norm", "tokens", "lr")}
    for name, parameter in model.named_parameters():
        found[name] = parameter.detach()
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad
    return found


def broken_off() -> str:
    """What a process says when one row, which another process may hold, is not finite."""
    model = tiny(tie_embeddings=False)
    with torch.no_grad():
        model.token_embedding.weight[28] = math.nan
    batch = Batch(torch.tensor([[1], [2], [3], [28]]), torch.tensor([[1], [2], [3], [4]]))
    try:
        list(train(model, lambda step: batch, TrainConfig(steps=1)))
    except FloatingPointError as problem:
        return str(problem)


def main(directory: Path) -> None:
    rank = int(os.environ["RANK"])
    with joined("cpu"):
        group = weakref.ref(distributed.group.WORLD)
        for name, case in CASES.items():
            save_file(results(**case), directory / f"{name}.{rank}")
        (directory / f"broken off.{rank}").write_text(broken_off())
    (directory / f"group at the end.{rank}").write_text(str(group()))


def torchrun(processes: int, *arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.Popen([*command, *map(str, arguments)], cwd=ROOT, env=path, text=True, **options)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda k: f"{k} processes")
def together(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("together")
    assert torchrun(request.param, __file__, directory).wait(120) == 0
    return directory, request.param


def test_several_processes_take_the_step_of_one(together):
    directory, count = together
    for name in CASES:
        alone = results(**CASES[name])
        for rank in range(count):
            assert_close(
                load_file(directory / f"{name}.{rank}"), alone, rtol=1e-10, atol=1e-12, msg=f"{name}: {{}}".format
            )


def test_all_processes_stop_at_what_one_of_them_meets(together):
    directory, count = together
    said = {(directory / f"broken off.{rank}").read_text() for rank in range(count)}
    assert said == {broken_off()} and "step 1: loss nan" in said.pop()


def test_nothing_holds_the_group_past_its_end(together):
    # its threads would outlive Python, and now and then one of them would take the finished process down
    directory, count = together
    assert [(directory / f"group at the end.{rank}").read_text() for rank in range(count)] == ["None"] * count


def test_processes_drop_unlike_activations():
    # the same ones, were they all seeded alike: a batch's rows would share one mask
    seeds = []
    model = tiny(dropout=0.5)
    model.register_forward_hook(lambda *_: seeds.append(torch.initial_seed()))
    with pytest.MonkeyPatch.context() as patch:
        for rank in (0, 1):
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            patch.setattr(processes, "size", lambda: 2)
            patch.setattr(processes, "_sum", lambda tensor: tensor)
            next(train(model, batches(2), TrainConfig(steps=1)))
    assert len(set(seeds)) == 2


def test_one_process_alone_needs_no_group():
    model, batch, config = tiny(), batches(3)(0), TrainConfig(steps=1, micro_batches=2)
    assert not distributed.is_initialized()
    assert (processes.size(), processes.rank(), processes.total(0.5)) == (1, 0, 0.5)
    rows = []
    model.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    processes.accumulate_gradients(model, batch, config)
    assert rows == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--n-layers", "0"], "n_layers=0: must be at least 1"),
        (["--resume"], "tokenizer.json: is missing, there is no run to resume"),
        (["--lr", "1e9", "--optimizer", "adamw", "--steps", "9"], "is not finite"),
    ],
    ids=["no text", "bad number", "no run", "nan"],
)
def test_a_mistake_that_all_processes_meet_is_said_once(tmp_path, flags, message):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    small = "--context-length 48 --n-layers 1 --d-model 32 --d-ff 32 --vocab-size 300 --batch-size 4 --device cpu"
    command = ["-m", "scripts.pretrain", "--data", tmp_path / "text.txt", *small.split(), "--out", tmp_path / "run"]
    run = torchrun(2, *command, *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = [line for line in run.communicate(timeout=60)[1].splitlines() if line.startswith("error: ")]
    assert run.returncode != 0 and len(said) == 1 and message in said[0], said


@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_by_ctrl_c_and_goes_on_in_one(tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    small = "--context-length 48 --d-model 32 --d-ff 32 --vocab-size 300 --batch-size 5 --precision fp32 --steps 120"
    flags = ["scripts.pretrain", "--data", tmp_path / "text.txt", "--optimizer", "adamw", *small.split()]
    run = torchrun(2, "-m", *flags, "--out", tmp_path / "cut", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = tmp_path / "cut" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= 15) and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(2)
    said, complained = run.communicate(timeout=60)
    assert said.count("parameters") == 1  # only the first process speaks
    (save,) = (line.split("; ")[1].split()[-1] for line in complained.splitlines() if "stopped after step" in line)
    state = json.loads((Path(save) / "state.json").read_text())
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, state["step"] + 1)) and 15 <= len(steps) < 120
    alone = [sys.executable, "-m", *map(str, flags), "--out"]
    subprocess.run([*alone, tmp_path / "cut", "--resume"], cwd=ROOT, check=True)
    subprocess.run([*alone, tmp_path / "whole"], cwd=ROOT, check=True)
    cut, whole = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("cut", "whole")
    )
    assert [row["step"] for row in cut] == list(range(1, 121))
    assert [row["loss"] for row in cut] == pytest.approx([row["loss"] for row in whole], rel=1e-3)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole")]
    assert_close(*weights, rtol=1e-2, atol=1e-3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
