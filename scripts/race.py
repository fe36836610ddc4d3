"""The race that everyone knows: characters of tiny Shakespeare, down to the loss that nanoGPT's CPU recipe ends at.

python -m scripts.race --data tinyshakespeare.txt
"""

import argparse
import statistics
import time
from pathlib import Path

from scripts.common import run, show_progress, table, write_json

# nanoGPT's documented CPU recipe: 2,000 steps of 12 x 64 characters; what it ends at, over the whole validation split.
TARGET, PEER_STEPS, PEER_BATCH, CONTEXT = 1.9058, 2000, 12, 64
SHAPE = dict(context_length=CONTEXT, n_layers=4, n_heads=2, d_model=128, d_ff=352, tie_embeddings=False)
SHAPE |= dict(norm="layernorm", qk_norm=True, embedding_norm=True)  # RMSNorm's kernel is slower
SPRINT = dict(steps=150, lr=0.015, muon_lr=0.06, batch_size=16)  # to the target
LONG = dict(lr=0.01, muon_lr=0.03, batch_size=16)  # for as long as the peer takes
SHARED = dict(optimizer="muon", precision="auto", warmup=0, final_lr=0.0, weight_decay=0.0)
MEASURED = 100  # steps of the peer that are timed, a part of them before each of our runs


def read_characters(path: Path) -> tuple:
    """A text's characters as ids: nine tenths to learn from, a tenth to validate on, and how many different ones."""
    import numpy as np

    text = path.read_text(encoding="utf-8")
    characters, ids = np.unique(np.array(list(text)), return_inverse=True)
    if len(ids) < 20 * CONTEXT:
        raise ValueError(f"{path}: {len(ids)} characters are too few to race on, at least {20 * CONTEXT} are needed")
    border = len(ids) * 9 // 10
    return ids[:border], ids[border:], len(characters)


def crops(ids, batch_size: int, seed: int):
    """Batches for `train`: at each step, rows that begin anywhere."""
    import numpy as np

    from minigpt import Batch

    def batches(step: int) -> Batch:
        starts = np.random.default_rng([seed, step]).integers(len(ids) - CONTEXT, size=batch_size)
        rows = ids[starts[:, None] + np.arange(CONTEXT + 1)]  # (B, T + 1)
        return Batch.from_rows(rows[:, :-1], rows[:, 1:])

    return batches


def validation_loss(model, ids) -> float:
    """The mean loss over all of the validation characters, read CONTEXT at a time."""
    from minigpt import Batch, evaluate

    rows = [ids[start : start + CONTEXT + 1] for start in range(0, len(ids) - 1, CONTEXT)]
    parts = [rows[i : i + 32] for i in range(0, len(rows), 32)]
    batches = (Batch.from_rows([row[:-1] for row in part], [row[1:] for row in part]) for part in parts)
    return evaluate(model, batches, SHARED["precision"])  # bfloat16 products move this loss by 1e-5


def race(training, validation, vocab_size: int, recipe: dict, seed: int) -> dict:
    """One run of ours, everything from the weights' first draw to the loss at the end within its seconds."""
    import torch

    from minigpt import GPT, GPTConfig, TrainConfig, train

    started = time.perf_counter()
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=vocab_size, **SHAPE))
    recipe, batches = dict(recipe), crops(training, recipe["batch_size"], seed)
    del recipe["batch_size"]
    config = TrainConfig(**recipe, **SHARED, seed=seed)
    for _ in show_progress(train(model, batches, config), config.steps, f"seed {seed}"):
        pass
    loss = validation_loss(model, validation)
    parameters = sum(p.numel() for p in model.parameters())
    return {"val_loss": loss, "seconds": time.perf_counter() - started, "steps": config.steps, "parameters": parameters}


class Peer:
    """A model of nanoGPT's shape in `transformers`, trained by nanoGPT's documented hyperparameters."""

    def __init__(self, training, vocab_size: int):
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=vocab_size, n_positions=CONTEXT, n_layer=4, n_head=4, n_embd=128, activation_function="gelu",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
        self.batches, self.steps = crops(training, PEER_BATCH, 0), 0

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
        """How long each of so many steps takes, after some that aren't counted."""
        for _ in range(5):
            self.step()
        found = []
        for _ in range(count):
            started = time.perf_counter()
            self.step()
            found.append(time.perf_counter() - started)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.race", description=__doc__.split("\n")[0])
    where = "tiny Shakespeare is data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn"
    parser.add_argument("--data", type=Path, required=True, help=f"a text; {where}")
    parser.add_argument("--out", type=Path, default=Path("runs/race"), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="leave out the runs of the peer's length")
    parser.add_argument(
        "--steps", type=int, default=SPRINT["steps"], help="of a run to the target (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: must be at least 1")
    training, validation, vocab_size = read_characters(args.data)
    from transformers.utils import logging

    logging.set_verbosity_error()
    args.out.mkdir(parents=True, exist_ok=True)
    peer, peer_steps, sprints = Peer(training, vocab_size), [], []
    for seed in range(args.seeds):
        peer_steps += peer.seconds(-(-MEASURED // args.seeds))
        sprints.append(race(training, validation, vocab_size, SPRINT | {"steps": args.steps}, seed))
    peer_seconds = statistics.mean(peer_steps) * PEER_STEPS
    seeds = []
    for seed, sprint in enumerate(sprints):
        passed = sprint["val_loss"] <= TARGET
        seeds.append(
            {"seed": seed, "seconds_to_target": sprint["seconds"] if passed else None, "val": sprint["val_loss"]}
        )
        if not args.short:
            steps = max(1, int(peer_seconds / (sprint["seconds"] / sprint["steps"])))
            long = race(training, validation, vocab_size, LONG | {"steps": steps}, seed)
            seeds[-1] |= {"val_at_peer_time": long["val_loss"], "seconds_at_peer_time": long["seconds"], "steps": steps}
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
