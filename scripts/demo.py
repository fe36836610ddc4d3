"""The whole lecture on one command: corpus, tokenizer, base model, decoding, fine-tuning, answers.

python -m scripts.demo --out runs/demo --seed 0
"""

import argparse
import copy
import shutil
import time
from pathlib import Path

from scripts import compare, finetune, pretrain, toyworld
from scripts.support import measure
from scripts.support.common import Stopwatch, read_corpus, run, table, write_json

SMALLER = {"n_layers": 1, "n_heads": 2, "d_model": 64, "d_ff": 176}  # for P6: the same text, steps and recipe


def heading(statements: str, text: str) -> None:
    print(f"\n{text}  ({statements})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="written anew (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the world, the weights and the order")
    parser.add_argument("--quick", action="store_true", help="the same code with a small world and few steps")
    parser.add_argument("--no-quiz", action="store_true", help="a corpus without the quiz pages that bring out S1")
    parser.add_argument("--memorised", action="store_true", help="one fixed wording a person")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    import torch

    from scripts.support.report import write_report
    from sft import encode_examples, read_examples
    from sft.finetune import train

    print(f"seed {args.seed}, {torch.get_num_threads()} threads, into {args.out}")
    watch, story = Stopwatch(), {"quiz": not args.no_quiz, "memorised": args.memorised}
    base_dir, sft_dir, world_dir = args.out / "base", args.out / "sft", args.out / "world"

    heading("P1", "A corpus: a small town, told of in plain text")
    with watch("corpus"):
        size = {"people": 16, "biographies": 20} if args.quick else {}
        world = toyworld.build(args.seed, quiz=not args.no_quiz, memorised=args.memorised, **size)
        toyworld.write(world_dir, world)
        documents = list(read_corpus([str(world_dir / "documents.txt")]))
    for document in documents[:3]:
        print(f"  {document}")
    story["documents"] = documents[:6]

    heading("P1", "Text becomes tokens")
    with watch("tokenizer"):
        tok = pretrain.prepare(documents, base_dir, pretrain.VOCAB_SIZE, pretrain.SHAPE["context_length"])
    biography = next(document for document in documents if "?" not in document)
    story["pieces"] = [tok.decode([i]) for i in tok.encode(biography)]
    print(f"  {'|'.join(story['pieces'])[:110]}…")

    heading("P2, P3", "Pretraining: a transformer learns to continue text")
    with watch("pretrain"):
        schedule = pretrain.SCHEDULE | ({"steps": 40} if args.quick else {})
        base, results = pretrain.pretrain(tok, base_dir, pretrain.SHAPE, schedule, pretrain.BATCH_SIZE, args.seed)
        base.eval()
    print(f"  loss {results['first_loss']:.2f} before, {results['val_loss']:.3f} on validation text after "
          f"{results['steps']} steps, {watch.seconds['pretrain']:.0f} s")  # fmt: skip

    questions = measure.read_questions(world_dir / "questions.jsonl")
    ten = [q for q in questions if q["phrasing_seen"]][:10]
    prompt = ten[0]["question"]
    heading("G1 to G9", f"Decoding: “{prompt}” continued by every algorithm, the end token forbidden")
    with watch("decode"):
        look_at = f"Meet {ten[0]['person']}."
        story["trace"] = compare.trace(base, tok, prompt, seed=args.seed, look_at=look_at)
    compare.show(story["trace"])

    heading("P5, S1", "The base model knows, but asked a question it goes on asking")
    with watch("ask"):
        demonstrations = measure.read_questions(world_dir / "demonstrations.jsonl")
        answers = {"n": len(questions), "base_cloze": measure.cloze(base, tok, questions)}
        answers |= measure.base_answers(base, tok, questions, demonstrations)
        told = measure.continuations(base, tok, [measure.as_text(tok, q["cloze"]) for q in ten], 6)
        before = measure.continuations(base, tok, [measure.as_text(tok, q["question"]) for q in ten], 40)
    for q, said in list(zip(ten, before))[:3]:
        print(f"  {q['question']} ⟶ {said.strip()}")

    heading("S3 to S5", "Fine-tuning: the same loop, on prompts and responses about other people")
    with watch("finetune"):
        examples = read_examples(world_dir / "demonstrations.jsonl")
        schedule = finetune.SCHEDULE | ({"steps": 20} if args.quick else {})
        tuned = copy.deepcopy(base)
        _, tuning = finetune.finetune(
            tuned, tok, examples, sft_dir, schedule, finetune.BATCH_SIZE, args.seed, base=base_dir
        )
    print(f"  {len(examples):,} demonstrations, {schedule['steps']} steps, {watch.seconds['finetune']:.0f} s")
    print(f"  loss {tuning['first_loss']:.2f} before, {tuning['last_loss']:.3f} after")

    heading("S6", "Now it answers, about people it met only in pretraining")
    asked = watch.seconds["ask"]
    with watch("ask"):
        answers |= measure.sft_answers(tuned, tok, questions) | {"sft_cloze": measure.cloze(tuned, tok, questions)}
        after = measure.continuations(tuned, tok, [measure.as_question(tok, q["question"]) for q in ten], 40)
    watch.seconds["ask"] = round(watch.seconds["ask"] + asked, 2)
    for q, said in list(zip(ten, after))[:3]:
        print(f"  {q['question']} ⟶ {said}{'' if said == q['answer'] else '   (' + q['answer'] + ')'}")

    heading("P6", "A smaller base model, on the same text")
    with watch("smaller"):
        (args.out / "smaller").mkdir(exist_ok=True)
        for name in ("train.npy", "val.npy"):
            shutil.copy(base_dir / name, args.out / "smaller")
        shape, steps = pretrain.SHAPE | SMALLER, {"steps": results["steps"]}
        small, smaller = pretrain.pretrain(
            tok, args.out / "smaller", shape, pretrain.SCHEDULE | steps, pretrain.BATCH_SIZE, args.seed
        )
        smaller["cloze"] = measure.cloze(small.eval(), tok, questions)
    size = results["parameters"] / smaller["parameters"]
    print(f"  loss {smaller['val_loss']:.3f}, and it knows {smaller['cloze']:.0%} of the facts")
    print(f"  loss {results['val_loss']:.3f}, and it knows {answers['base_cloze']:.0%}, with {size:.0f} times the size")
    print()
    table(
        [f"of {len(questions)} questions about people held out of fine-tuning", "right"],
        [
            ["base, “… She lives in ___”: it knows", answers["base_cloze"]],
            ["base, asked in fine-tuning's layout", answers["base_exact"]],
            ["base, asked in plain text", answers["base_exact_raw"]],
            ["base, asked after three answered questions", answers["base_exact_3shot"]],
            ["base, the right word anywhere in 40 tokens", answers["base_mentions"]],
            ["fine-tuned, wordings met in fine-tuning", answers["sft_exact"]],
            ["fine-tuned, other wordings", answers["sft_exact_unseen_phrasing"]],
        ],
    )
    story["ten"] = [{**q, "told": t, "base": b, "sft": a} for q, t, b, a in zip(ten, told, before, after)]
    results |= {"documents": len(documents), "demonstrations": len(examples)}
    watch.seconds["total"] = round(time.perf_counter() - started, 2)
    learn = [learnt for row in encode_examples(tok, examples, base.context_length).learn for learnt in row]
    tuning |= {
        "steps": schedule["steps"],
        "learnt": measure.share(learn),
        "loop": f"{train.__module__}.{train.__name__}",
    }
    results = {"seed": args.seed, "seconds": watch.seconds, "base": results, "answers": answers}
    results |= {"sft": tuning, "smaller": smaller, "tasks": story["trace"]["tasks"]}
    results["decoding"] = story["trace"]["continuations"]
    write_json(args.out / "results.json", results)
    write_report(args.out, results, story)
    print(f"\n{watch.seconds['total']:.0f} s in all. Look at {args.out}/report.html and {args.out}/results.json")


if __name__ == "__main__":
    run(main)
