"""The race that everyone knows: characters of tiny Shakespeare, down to the loss that nanoGPT's CPU recipe ends at.

python -m scripts.lab.race --data tinyshakespeare.txt
"""

import argparse
import statistics
from pathlib import Path

from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_other_results, write_json
from scripts.support.terminal import table

# What nanoGPT's documented CPU recipe ends at after 2,000 steps, over the whole validation split of tiny Shakespeare.
TARGET, PEER_STEPS = 1.9058, 2000
TINY_SHAKESPEARE = (1_115_394, 65)  # characters, and different ones
MEASURED = 100  # steps of the peer that are timed, a part of them before each of our runs
EVENING_TARGET = 1.4697  # what nanoGPT documents for 10.7 M parameters and minutes of an A100


def main() -> None:
    parser = Parser(__doc__, prog="scripts.lab.race")
    where = "tiny Shakespeare is data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn"
    parser.add_argument("--data", type=file_name, required=True, help=f"a text; {where}")
    parser.add_argument("--out", type=file_name, default=Path("runs/race"), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=whole(), default=3, help="how many runs (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="leave out the runs of the peer's length")
    parser.add_argument("--evening", action="store_true", help=f"only a larger model, down to {EVENING_TARGET}: longer")
    parser.add_argument("--steps", type=whole(), help="of a run to the target (default: the recipe's)")
    args = parser.parse_args()
    refuse_other_results(args.out, "peer_seconds")
    with locked(args.out):
        (evening if args.evening else beside_peer)(args)


def evening(args: argparse.Namespace) -> None:
    """A larger model for as long as it takes."""
    from scripts.lab import racer
    from scripts.support.measuring.text_loss import told

    text, recipe = racer.read_characters(args.data), with_steps(racer.EVENING, args.steps)
    seeds = [{"seed": seed} | racer.race(text, recipe, seed) for seed in range(args.seeds)]
    write_json(args.out / "evening.json", {"target": EVENING_TARGET, "seeds": seeds})

    print(f"  {seeds[0]['parameters']:,} parameters, loss over all {len(text.validation):,} validation characters")
    table(["seed", "loss", "seconds"], [[row["seed"], told(row["val"]), row["seconds"]] for row in seeds])
    print(f"  nanoGPT documents {EVENING_TARGET} for 10.7 M parameters on an A100")


def beside_peer(args: argparse.Namespace) -> None:
    """Down to the peer's loss, and for as long as the peer takes."""
    from scripts.lab import peer, racer
    from scripts.support.measuring.text_loss import told

    text, recipe = racer.read_characters(args.data), with_steps(racer.SPRINT, args.steps)
    known = (len(text.training) + len(text.validation), text.vocab_size) == TINY_SHAKESPEARE

    # sprints, and parts of the peer's run between them, so that both meet the machine at the same pace
    peer_batches = racer.crops(text.training, peer.BATCH, peer.CONTEXT, 0)
    their_run, their_seconds, sprints = peer.Peer(peer_batches, text.vocab_size), [], []
    for seed in range(args.seeds):
        their_seconds += their_run.seconds(-(-MEASURED // args.seeds))
        sprints.append(racer.race(text, recipe, seed))
    peer_seconds = statistics.mean(their_seconds) * PEER_STEPS

    # long runs: as many steps as fit into the peer's time
    seeds = []
    for seed, sprint in enumerate(sprints):
        reached = sprint["seconds"] if known and sprint["val"] <= TARGET else None
        seeds.append({"seed": seed, "seconds_to_target": reached, "val": sprint["val"]})
        if not args.short:
            pace = racer.race(text, with_steps(racer.LONG, 50), seed)["pace"]
            steps = max(1, int(0.98 * peer_seconds / pace))  # the rest is for the validation
            long = racer.race(text, with_steps(racer.LONG, steps), seed)
            seeds[-1] |= {"val_at_peer_time": long["val"], "seconds_at_peer_time": long["seconds"], "steps": steps}

    # keep, then show
    reached = [row["seconds_to_target"] for row in seeds if row["seconds_to_target"]]
    ratio = peer_seconds / statistics.median(reached) if len(reached) == args.seeds else None
    result = {"target": TARGET, "seeds": seeds, "peer_seconds": peer_seconds, "ratio": ratio}
    write_json(args.out / "results.json", result)
    print(f"  {sprints[0]['parameters']:,} parameters, loss over all {len(text.validation):,} validation characters")
    counted = f"{len(their_seconds)} of its {PEER_STEPS:,} steps measured"
    print(f"  peer: {peer_seconds:.1f} s by nanoGPT's CPU recipe, {counted}; it ends at {TARGET}")
    columns = {"seed": "seed", "val": "loss", "seconds_to_target": "seconds", "val_at_peer_time": "in the peer's time"}
    shown = [name for name in columns if name in seeds[0]]
    as_shown = lambda name, figure: told(figure) if name.startswith("val") else "-" if figure is None else figure
    rows = [[as_shown(name, row[name]) for name in shown] for row in seeds]
    table([columns[name] for name in shown], rows)
    no_ratio = f"not every seed came down to {TARGET}" if known else f"no ratio: {TARGET} is for tiny Shakespeare only"
    print(f"  {ratio:.1f} times as fast as the peer" if ratio else f"  {no_ratio}")


def with_steps(recipe, steps: int | None):
    """The recipe with another number of steps, if one is given."""
    return recipe if steps is None else recipe._replace(training=recipe.training | {"steps": steps})


if __name__ == "__main__":
    run(main)
