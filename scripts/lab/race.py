"""The race that everyone knows: characters of tiny Shakespeare, down to the loss that nanoGPT's CPU recipe ends at.

python -m scripts.lab.race --data tinyshakespeare.txt
"""

import argparse
import statistics
import time
from pathlib import Path

from scripts.support.command_line import run
from scripts.support.run_directory import write_json
from scripts.support.terminal import show_progress, table

# nanoGPT's documented CPU recipe: 2,000 steps of 12 x 64 characters; what it ends at, over the whole validation split.
TARGET, PEER_STEPS, PEER_BATCH, PEER_CONTEXT = 1.9058, 2000, 12, 64
MEASURED = 100  # steps of the peer that are timed, a part of them before each of our runs
EVENING_TARGET = 1.4697  # what nanoGPT documents for 10.7 M parameters and minutes of an A100

# Ours. LayerNorm, as RMSNorm's kernel is slower. A short run needs less momentum, a longer one a longer context.
SWITCHES = dict(norm="layernorm", tie_embeddings=False)
SHAPE = dict(n_layers=4, n_heads=2, d_model=128, d_ff=352, **SWITCHES)
SPRINT = dict(context=64, batch_size=16, lr=0.015, muon_lr=0.08, betas=(0.85, 0.95), steps=125)  # to the target
LONG = dict(context=128, batch_size=12, lr=0.01, muon_lr=0.04)  # for as long as the peer takes
EVENING_SHAPE = dict(n_layers=4, n_heads=4, d_model=256, d_ff=704, dropout=0.2, **SWITCHES)
EVENING = dict(context=256, batch_size=16, lr=0.006, muon_lr=0.025, steps=2000)
SHARED = dict(optimizer="muon", precision="auto", warmup=0, final_lr=0.0, weight_decay=0.0)


def read_characters(path: Path) -> tuple:
    """A text's characters as ids: nine tenths to learn from, a tenth to validate on, and how many different ones."""
    import numpy as np

    text = path.read_text(encoding="utf-8")
    characters, ids = np.unique(np.array(list(text)), return_inverse=True)
    least = 20 * PEER_CONTEXT
    if len(ids) < least:
        raise ValueError(f"{path}: {len(ids)} characters are too few to race on, at least {least} are needed")
    border = len(ids) * 9 // 10
    return ids[:border], ids[border:], len(characters)


def crops(ids, batch_size: int, context: int, seed: int):
    """Batches for `train`: at each step, rows that begin anywhere."""
    import numpy as np

    from minigpt import Batch

    def batches(step: int) -> Batch:
        starts = np.random.default_rng([seed, step]).integers(len(ids) - context, size=batch_size)
        rows = ids[starts[:, None] + np.arange(context + 1)]  # (B, T + 1)
        return Batch.from_rows(rows[:, :-1], rows[:, 1:])

    return batches


def validation_loss(model, ids) -> float:
    """The mean loss over all of the validation characters, read one context at a time."""
    from minigpt import Batch, evaluate

    context = model.context_length
    rows = [ids[start : start + context + 1] for start in range(0, len(ids) - 1, context)]
    parts = [rows[i : i + 32] for i in range(0, len(rows), 32)]
    batches = (Batch.from_rows([row[:-1] for row in part], [row[1:] for row in part]) for part in parts)
    return evaluate(model, batches, SHARED["precision"])  # bfloat16 products move this loss by 1e-5


def race(training, validation, vocab_size: int, shape: dict, recipe: dict, seed: int) -> dict:
    """One run of ours, everything from the weights' first draw to the loss at the end within its seconds.

    shape: of GPTConfig; recipe: of TrainConfig, and context and batch_size. Gives {"val": the loss over all validation
    characters, "seconds", "steps", "pace": the median seconds of a step, "parameters"}.
    """
    import torch

    from minigpt import GPT, GPTConfig, TrainConfig, train
    from scripts.lab.racer import normalised

    started, recipe = time.perf_counter(), dict(recipe)
    batch_size, context = recipe.pop("batch_size"), recipe.pop("context")
    torch.manual_seed(seed)
    model = normalised(GPT(GPTConfig(vocab_size=vocab_size, context_length=context, **shape)))
    config = TrainConfig(**recipe, **SHARED, seed=seed)
    steps = train(model, crops(training, batch_size, context, seed), config)
    pace = statistics.median(step.seconds for step in show_progress(steps, config.steps, f"seed {seed}"))
    loss = validation_loss(model, validation)
    seconds, parameters = time.perf_counter() - started, sum(p.numel() for p in model.parameters())
    return {"val": loss, "seconds": seconds, "steps": config.steps, "pace": pace, "parameters": parameters}


class Peer:
    """A model of nanoGPT's shape in `transformers`, trained by nanoGPT's documented hyperparameters."""

    def __init__(self, training, vocab_size: int):
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=vocab_size, n_positions=PEER_CONTEXT, n_layer=4, n_head=4, n_embd=128,
            activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
        self.batches, self.steps = crops(training, PEER_BATCH, PEER_CONTEXT, 0), 0

    def step(self) -> None:
        import torch

        batch = self.batches(self.steps)
        logits = self.model(batch.inputs, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    def seconds(self, count: int) -> list[float]:
        """How long each of this many steps takes, after a warm-up."""
        for _ in range(5):
            self.step()
        found = []
        for _ in range(count):
            started = time.perf_counter()
            self.step()
            found.append(time.perf_counter() - started)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.lab.race", description=__doc__.split("\n")[0])
    where = "tiny Shakespeare is data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn"
    parser.add_argument("--data", type=Path, required=True, help=f"a text; {where}")
    parser.add_argument("--out", type=Path, default=Path("runs/race"), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="leave out the runs of the peer's length")
    parser.add_argument("--evening", action="store_true", help=f"only a larger model, down to {EVENING_TARGET}: longer")
    parser.add_argument("--steps", type=int, help="of a run to the target (default: the recipe's)")
    args = parser.parse_args()
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: must be at least 1")
    text = read_characters(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    steps = {} if args.steps is None else {"steps": args.steps}
    if args.evening:
        evening(text, EVENING | steps, args)
    else:
        beside_peer(text, SPRINT | steps, args)


def evening(text: tuple, recipe: dict, args: argparse.Namespace) -> None:
    """A larger model for as long as it takes."""
    seeds = []
    for seed in range(args.seeds):
        seeds.append({"seed": seed} | race(*text, EVENING_SHAPE, recipe, seed))
    print(f"  {seeds[0]['parameters']:,} parameters, loss over all {len(text[1]):,} validation characters")
    table(["seed", "loss", "seconds"], [[row["seed"], row["val"], row["seconds"]] for row in seeds])
    print(f"  nanoGPT documents {EVENING_TARGET} for 10.7 M parameters on an A100")
    write_json(args.out / "evening.json", {"target": EVENING_TARGET, "seeds": seeds})


def beside_peer(text: tuple, recipe: dict, args: argparse.Namespace) -> None:
    """Down to the peer's loss, and for as long as the peer takes."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    training, validation, vocab_size = text
    peer, peer_steps, sprints = Peer(training, vocab_size), [], []
    for seed in range(args.seeds):
        peer_steps += peer.seconds(-(-MEASURED // args.seeds))
        sprints.append(race(*text, SHAPE, recipe, seed))
    peer_seconds = statistics.mean(peer_steps) * PEER_STEPS
    seeds = []
    for seed, sprint in enumerate(sprints):
        reached = sprint["seconds"] if sprint["val"] <= TARGET else None
        seeds.append({"seed": seed, "seconds_to_target": reached, "val": sprint["val"]})
        if not args.short:
            pace = race(*text, SHAPE, LONG | {"steps": 50}, seed)["pace"]
            steps = max(1, int(0.98 * peer_seconds / pace))  # the rest is for the validation
            long = race(*text, SHAPE, LONG | {"steps": steps}, seed)
            seeds[-1] |= {"val_at_peer_time": long["val"], "seconds_at_peer_time": long["seconds"], "steps": steps}
    reached = [row["seconds_to_target"] for row in seeds if row["seconds_to_target"]]
    ratio = peer_seconds / statistics.median(reached) if len(reached) == args.seeds else None
    print(f"  {sprints[0]['parameters']:,} parameters, loss over all {len(validation):,} validation characters")
    counted = f"{len(peer_steps)} of its {PEER_STEPS:,} steps measured"
    print(f"  peer: {peer_seconds:.1f} s by nanoGPT's CPU recipe, {counted}; it ends at {TARGET}")
    columns = {"seed": "seed", "val": "loss", "seconds_to_target": "seconds", "val_at_peer_time": "in the peer's time"}
    shown = [name for name in columns if name in seeds[0]]
    rows = [["-" if row[name] is None else row[name] for name in shown] for row in seeds]
    table([columns[name] for name in shown], rows)
    print(f"  {ratio:.1f} times as quick as the peer" if ratio else f"  not every seed came down to {TARGET}")
    result = {"target": TARGET, "seeds": seeds, "peer_seconds": peer_seconds, "ratio": ratio}
    write_json(args.out / "results.json", result)


if __name__ == "__main__":
    run(main)
