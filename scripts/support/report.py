"""The demo's report: one self-contained page that tells the lecture with this run's pictures and figures."""

from pathlib import Path

from minigpt.files.writing import write_text
from scripts.support import plots
from scripts.support.measuring.text_loss import told
from scripts.support.strategies import STRATEGIES
from scripts.support.terminal import escaped

STYLE = """
:root { --ink: #22262b; --soft: #5b626d; --line: #e3e6ea; --blue: #2a62a3; --orange: #a84b10; --green: #256b47; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fafaf8; font: 16px/1.55 Georgia, 'Times New Roman', serif; }
main { max-width: 980px; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .3rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
h2 small, .tag { font: 600 .72rem/1 system-ui, sans-serif; color: var(--blue); letter-spacing: .04em; margin-left: .6rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; } .soft { color: var(--soft); }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; }
figure svg { width: 100%; height: auto; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; } .pair figure { margin: 0; }
@media (max-width: 760px) { .pair { grid-template-columns: 1fr; } }
table { border-collapse: collapse; width: 100%; background: #fff; font: .86rem/1.45 system-ui, sans-serif; }
th { text-align: left; font-weight: 600; color: var(--soft); } th, td { padding: .5rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid var(--line); } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.token { padding: .1rem 0; border-radius: 3px; white-space: pre-wrap; font-family: ui-monospace, monospace; font-size: .88rem; }
.token:nth-child(4n) { background: #dbeafe } .token:nth-child(4n+1) { background: #fef3c7 }
.token:nth-child(4n+2) { background: #dcfce7 } .token:nth-child(4n+3) { background: #fce7f3 }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.facts div { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.facts b { display: block; font: 600 1.55rem/1.2 system-ui, sans-serif; } .facts span { color: var(--soft); font-size: .85rem; }
.bar { background: var(--line); height: .55rem; border-radius: 4px; min-width: 120px; margin-top: .4rem; }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--blue); }
.right { color: var(--green); } .wrong { color: var(--orange); } .right::before { content: "✓ "; } .wrong::before { content: "✗ "; }
.repeat { background: #fde8d7; border-bottom: 1px solid var(--orange); }
.unlikely { background: #fbd5d5; border: 2px solid #a3211b; border-radius: 4px; font-weight: 600; white-space: pre-wrap; }
.laid span { background: #fff; border: 1px solid var(--line); } .laid .special { background: #fef3c7; font-weight: 600; }
.laid .learnt { border-bottom: 3px solid var(--green); }
dt { font-weight: 600; } dd { margin: 0 0 .6rem; max-width: 46rem; }
.tree text { font: 13px system-ui, sans-serif; fill: var(--ink); } .tree .p { fill: var(--blue); font-size: 11px; }
.tree rect { fill: #fff; stroke: var(--blue); } .tree path { fill: none; stroke: var(--blue); stroke-width: 1.6; }
.tree .pruned rect { stroke: #d6d9dd; stroke-dasharray: 4 3; } .tree .pruned text { fill: var(--soft); } .tree path.pruned { stroke: #dfe2e6; }
.tree .best rect { stroke-width: 3; } .tree .best text { font-weight: 700; } .tree path.best { stroke-width: 3; }
@media (max-width: 700px) {
  main { padding: 1.2rem 1rem 3rem; } figure { overflow-x: auto; } figure svg { width: auto; min-width: 660px; }
  table, tbody, tr, td { display: block; width: 100%; } tr:first-child { display: none; } tr { padding: .5rem 0; }
  td, td.n { text-align: left; padding: .15rem .6rem; } td:empty { display: none; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
}
ul.corpus { padding-left: 1.1rem; } ul.corpus li { margin: .25rem 0; }
"""


def write_report(directory: Path, results: dict, story: dict) -> None:
    """Write report.html, the demo's story, into its directory."""
    parts = [opening(results, story), text_and_tokens(story), pretraining(directory, results, story["shape"])]
    parts += [comparison(story["trace"]), questions(directory, results, story), words()]
    write_page(directory / "report.html", "A language model, from text to answers", "".join(parts))


def write_comparison(directory: Path, trace: dict) -> None:
    """Write compare.html: one prompt under every algorithm."""
    title = f"“{escaped(trace['prompt'])} …”"
    write_page(directory / "compare.html", title, f"<h1>{title}</h1>{comparison(trace)}{words()}")


def write_page(path: Path, title: str, body: str) -> None:
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>{STYLE}</style></head><body><main>{body}</main></body></html>"""
    write_text(path, page)


def section(title: str, statements: str, *parts: str) -> str:
    return f"<h2>{title}<small>{statements}</small></h2>" + "".join(parts)


def rows(header: list[str], body: list[list[str]], numbers: set[int]) -> str:
    """A table; the cells are HTML, those of the columns in `numbers` to the right. A narrow page stacks the cells."""
    to_right = [" class=n" if i in numbers else "" for i in range(len(header))]
    labels = [f' data-label="{name}"' if name else "" for name in header]
    first = "".join(f"<th{right}>{name}</th>" for right, name in zip(to_right, header))
    lines = ["".join(f"<td{r}{label}>{cell}</td>" for r, label, cell in zip(to_right, labels, row)) for row in body]
    return f"<table><tr>{first}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def spans(parts: list[tuple[str, str]], kind: str = "") -> str:
    """Text in parts, each with its marks, as HTML; a part without marks is plain text unless each is of a kind."""
    return "".join(
        f'<span class="{kind} {mark}">{escaped(text)}</span>' if kind or mark else escaped(text) for text, mark in parts
    )


def opening(results: dict, story: dict) -> str:
    answers, seconds = results["answers"], results["seconds"]
    facts = [
        (f"{answers['base_cloze']:.0%}", "of held-out facts known by the base model, asked as a gap to fill"),
        (f"{answers['base_exact_raw']:.0%}", "of the same answered by it, when asked in plain text"),
        (f"{answers['sft_exact']:.0%}", "answered after fine-tuning on other people"),
        (f"{answers['sft_exact_unseen_phrasing']:.0%}", "answered in wordings that fine-tuning never used"),
        (f"{seconds['total']:.0f} s", "from nothing to here, on this machine"),
    ]
    boxes = "".join(f"<div><b>{figure}</b><span>{text}</span></div>" for figure, text in facts)
    special = ""
    if story["memorised"]:
        special = "<p><b>This run tells each life in one fixed wording only:</b> what is learnt by heart can't be asked for.</p>"
    if not story["quiz"]:
        special += "<p><b>This run leaves out the quiz pages.</b></p>"
    return f"""<h1>A language model, from text to answers</h1>
<p class="soft">Everything below was computed in this run, seed {results["seed"]}. The tags name the lecture's statements;
<code>make claims</code> lists the code and the test behind each.</p>{special}<div class="facts">{boxes}</div>"""


def text_and_tokens(story: dict) -> str:
    lines = "".join(f"<li>{escaped(document)}</li>" for document in story["documents"])
    pieces = spans([(piece, "") for piece in story["pieces"]], "token")
    quiz = ""
    if story["quiz"]:
        quiz = """<p class="soft">15 % of the documents are quiz pages, which ask and never answer. They are put there on purpose, to
        bring out what S1 describes: asked a question, a base model continues with more questions. They hold no fact.</p>"""
    return section(
        "A corpus becomes tokens", "P1",
        f"<p>Many short texts describe a small invented town:</p><ul class='corpus'>{lines}</ul>{quiz}",
        f"<p>A byte-pair tokenizer, trained on it, cuts it into pieces; frequent words are one token:</p><p>{pieces}</p>",
    )  # fmt: skip


def pretraining(directory: Path, results: dict, shape: dict) -> str:
    base, smaller = results["base"], results["smaller"]
    picture = plots.svg(plots.loss_figure(directory / "base/log.jsonl", "pretraining", base["ln_vocab"]))
    return section(
        "A transformer learns to predict the next token", "P2 P3",
        f"""<p>The model has {shape["n_layers"]} layers of width {shape["d_model"]} with {shape["n_heads"]} attention heads, a window of
        {shape["context_length"]} tokens and V = {shape["vocab_size"]} tokens to choose from: {base["parameters"]:,} parameters in all.</p>
        <p>The first loss is {told(base["first_loss"])}: the model knows nothing, so every one of the V tokens is as good as
        any other, and ln V = {base["ln_vocab"]:.2f}. After {base["steps"]} steps it is {told(base["val_loss"])} on text that it
        hasn't seen. Both are in nats per token; the second is {base["bits_per_byte"]:.3f} bits per byte of the text.</p><figure>{picture}</figure>""",
    ) + section(
        "A smaller model on the same text", "P6",
        "<p>The same text, steps and recipe, with fewer parameters and with those of the base model:</p>",
        rows(
            ["parameters", "loss on text it hasn't seen", "facts it can fill in"],
            [
                [f"{one['parameters']:,}", told(one["val_loss"]), f"{knows:.0%}"]
                for one, knows in ((smaller, smaller["cloze"]), (base, results["answers"]["base_cloze"]))
            ],
            numbers={0, 1, 2},
        ),
    )  # fmt: skip


def comparison(trace: dict) -> str:
    return next_token(trace) + beam_tree(trace) + continuations(trace) + least_likely(trace) + tasks(trace)


def next_token(trace: dict) -> str:
    bars = plots.svg(plots.filter_figure(trace["next_token"]["stages"], trace["next_token"]["tokens"]))
    steps = plots.svg(plots.kept_figure(trace["kept_by_step"]))
    kept = rows(
        ["prompt", "most probable", "its probability", "entropy", "top-k keeps", "top-p keeps"],
        [
            [escaped(row["prompt"]), escaped(row["best"]), f"{row['p']:.2f}", f"{row['entropy']:.2f}", str(row["top_k"]),
             f"<b>{row['top_p']}</b>"]
            for row in trace["kept"]
        ],
        numbers={2, 3, 4, 5},
    )  # fmt: skip
    return section(
        "From probabilities to a choice", "G1 G7 G8 G9",
        f"""<p>After “{escaped(trace["look_at"])}” the model gives each token a probability. A filter takes tokens out or changes the
        balance; what is left is scaled up to 1 and drawn from.</p><figure>{bars}</figure>
        <p>Top-k keeps as many tokens whatever the prompt. Top-p keeps many where many are likely, and one where one is.</p>{kept}
        <figure>{steps}<figcaption>the same along one text, drawn with top-p</figcaption></figure>""",
    )  # fmt: skip


def beam_tree(trace: dict) -> str:
    tree = plots.beam_svg(trace["tree"], "…")
    return section(
        "Beam search looks further than one token", "G5",
        f"""<p>Three paths are kept at each step, out of all continuations of all of them. The figure beside a token is the
        probability of the whole path; dashed paths were pruned, and ★ follows the path that won: the most probable one at the end.</p>
        <figure>{tree}<figcaption>from “{escaped(trace["look_at"])}”, width 3</figcaption></figure>""",
    )  # fmt: skip


def continuations(trace: dict) -> str:
    body = []
    for row in trace["continuations"]:
        strategy = STRATEGIES[row["strategy"]]
        knobs = ", ".join(f"{name} {value}" for name, value in row["knobs"].items() if name != "temperature" or value)
        name = f"<b>{row['strategy'].replace('_', '-')}</b> <span class=tag>{strategy.statement}</span><br><span class=soft>{strategy.meaning}"
        body.append([
            f"{name}{'; ' + knobs.replace('_', '-') if knobs else ''}</span>", spans(row["marked"]) + (" …" if row["text"].endswith(" …") else ""),
            f"{row['repetition']:.2f}", f"{row['distinct2']:.2f}", f"{row['logprob']:.2f}",
            "differs" if row["second_run_differs"] else "the same",
        ])  # fmt: skip
    header = ["algorithm", "text", "repeated 4-grams", "distinct pairs", "log-prob per token", "second run"]
    return section(
        "The same prompt, continued by every algorithm", "G3 to G9",
        f"""<p>“{escaped(trace["prompt"])} …”. The end token is taken away here, so that each algorithm has to fill the same length, longer than
        a document; “…” marks where it was cut. Each algorithm has seeds of its own. The figures are means over the runs.</p>
        <p><span class="repeat">Underlined</span> tokens repeat four tokens in a row that came before;
        a <span class="unlikely">framed</span> one was drawn although the model gave it less than 1 %.</p>""",
        rows(header, body, numbers={2, 3, 4}),
    )  # fmt: skip


def least_likely(trace: dict) -> str:
    odd = trace["least_likely"]
    around = [("… " + odd["before"], ""), (odd["token"], "unlikely"), (odd["after"] + " …", "")]
    return section(
        "The weakness of drawing from everything", "G6",
        f"""<p>In 20 more texts drawn from the whole distribution, {odd["unlikely"]:,} of {odd["tokens"]:,} tokens had a probability below 1 %
        each. This is the least likely of them, of probability {odd["p"]:.2g}:</p><p>{spans(around)}</p>
        <p>Top-k, top-p and min-p cut such tokens off.</p>""",
    )  # fmt: skip


def tasks(trace: dict) -> str:
    header = ["task", "temperature", "top-p", "tokens kept", "entropy", ""]
    body = [
        [row["task"], str(row["temperature"]), str(row["top_p"]), str(row["kept"]), f"{row['entropy']:.2f}",
         "one token is left: this is greedy" if row["kept"] == 1 else ""]
        for row in trace["tasks"]
    ]  # fmt: skip
    return section(
        "Settings by task", "G10",
        """<p>A rule of thumb from OpenAI's developer forum (thread 172683), given there without measurements. The two columns
        on the right are measured here, for the next token. Top-p .1 is greedy wherever the first token has more than .1.</p>""",
        rows(header, body, numbers={1, 2, 3, 4}),
    )  # fmt: skip


def questions(directory: Path, results: dict, story: dict) -> str:
    answers = results["answers"]
    scores = [
        ("base model", "“… She lives in ___”: does it know?", "base_cloze"),
        ("base model", "asked in plain text", "base_exact_raw"),
        ("base model", "asked after three answered questions", "base_exact_3shot"),
        ("base model", "asked in fine-tuning's layout", "base_exact"),
        ("base model", "the right word anywhere in 40 tokens", "base_mentions"),
        ("fine-tuned", "wordings seen in fine-tuning", "sft_exact"),
        ("fine-tuned", "other wordings", "sft_exact_unseen_phrasing"),
        ("fine-tuned", "the gap to fill again: what was forgotten?", "sft_cloze"),
    ]
    table = rows(
        ["model", "how it is asked", "right", ""],
        [
            [
                model,
                how,
                f"{answers[key]:.3f}",
                f'<div class="bar"><i style="width:{100 * answers[key]:.0f}%"></i></div>',
            ]
            for model, how, key in scores
        ],
        numbers={2},
    )
    body = []
    for row in story["ten"]:
        mark = "right" if row["sft"] == row["answer"] else "wrong"
        body.append([escaped(row["question"]), f"<span class=soft>{escaped(row['base'].strip())}</span>",
                     f"<span class={mark}>{escaped(row['sft'])}</span>", escaped(row["answer"])])  # fmt: skip
    picture = plots.svg(plots.loss_figure(directory / "sft/log.jsonl", "fine-tuning: loss on the responses"))
    return section(
        "The base model knows, and does not answer", "P5 S1",
        f"""<p>Given the beginning of a sentence, the base model continues with the right fact in {answers["base_cloze"]:.0%} of the
        cases. Asked for the same fact, it continues the text, as its corpus does.</p>""",
        rows(
            ["given", "it continues", "asked", "it continues"],
            [
                [escaped(row["cloze"]), f"<b>{escaped(row['told'].split('.')[0])}</b> …", escaped(row["question"]),
                 f"<span class=soft>{escaped(row['base'].strip())}</span>"]
                for row in story["ten"][:4]
            ],
            numbers=set(),
        ),
    ) + section(
        "A demonstration, laid out", "S3",
        f"""<p>Special tokens open the prompt and the response. The <span class="laid"><span class="learnt">underlined</span></span> tokens
        are learnt: the response, and the end token after it.</p><p class="laid">{spans(story["layout"], "token")}</p>""",
    ) + section(
        "Fine-tuning: the same loop, other data", "S2 to S6",
        f"""<p>The loop that pretrained the model now runs on prompts and responses about <i>one half</i> of the town. Then the model is asked
        {answers["n"]} questions about the other half, which it met in pretraining only. The loss on the responses falls from
        {told(results["sft"]["first_loss"])} to {told(results["sft"]["last_loss"])}.</p>
        <figure>{picture}</figure>{table}""",
        "<p style='margin-top:2rem'>The same ten questions, before and after:</p>",
        rows(["question", "base model continues", "fine-tuned model answers", "true"], body, numbers=set()),
        """<p class="soft">It isn't ready for use (S7): it answers the kind of question it was shown, and it is just as sure when it is wrong.</p>""",
    )  # fmt: skip


def words() -> str:
    """What the figures are called, and what they mean."""
    meanings = {
        "nats": "the unit of a natural logarithm. A token of probability p costs -ln p nats: 0 when it was certain, .69 for one half.",
        "loss": "the mean of that cost over all tokens of a text.",
        "perplexity": "e to the loss: the model is as unsure as if it chose among so many equally likely tokens.",
        "bits per byte": "the loss counted in bits per byte of the text, so that models with other tokenizers can be compared.",
        "entropy": "how open the next token is, in nats: 0 when one token is certain, ln V when all V are equally likely.",
        "log-prob per token": "the mean of ln p over the tokens that an algorithm wrote; nearer to 0 is likelier to the model.",
        "repeated 4-grams": "the share of runs of four tokens that came before in the same text: near 1 for a loop.",
        "distinct pairs": "different pairs of neighbouring tokens per pair: near 0 for a loop, 1 where no pair comes twice.",
    }
    listed = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in meanings.items())
    return section("Words", "", f"<dl>{listed}</dl>")
