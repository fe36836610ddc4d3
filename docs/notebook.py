# %% [markdown]
# # A language model, from text to answers
#
# This notebook walks through one lecture on language models: how they are pretrained (P1 to P6), how they write (G1
# to G12), and how they are fine-tuned to answer (S1 to S7). Every number that you see is computed here, on a small
# invented town, in a few minutes and without a GPU. The code is the project's own: `minigpt`, `decoding` and `sft`.
#
# Run the cells from the top, and change something wherever it says **Try it**. With that, it fills an hour.

# %% [markdown]
# ## Before we begin
#
# The project's folder must be near: this notebook inside of it, or the folder beside this notebook (in Colab, upload
# it or clone it first). The next cell finds it, and installs what is missing.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
near = [here, *here.parents, *here.glob("*/")]
project = next((folder for folder in near if (folder / "minigpt/model.py").exists()), None)
if project is None:
    raise FileNotFoundError(f"the project's folder is not near {here}: put it beside this notebook")
needed = ("torch", "regex", "tiktoken", "safetensors", "tqdm", "matplotlib")
if any(importlib.util.find_spec(name) is None for name in needed):
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", f"{project}[demo]"])
sys.path.insert(0, str(project))
print("ready:", project.name)

# %% [markdown]
# # Pretraining
#
# ## P1 Text becomes tokens
#
# Our corpus describes a town of 32 people. Each has a job, a town, a pet, a colour and a food. The texts tell these
# facts in many wordings. Some pages only ask questions, and no page answers one.

# %%
from scripts import toyworld

world = toyworld.build(seed=0, people=32, biographies=80)
print(len(world.documents), "documents, for example:\n")
for document in world.documents[:5]:
    print(" ", document)

# %% [markdown]
# A byte-pair tokenizer learns its vocabulary from them: it merges the most frequent pair of neighbours, again and
# again.

# %%
from minigpt import Tokenizer

tok = Tokenizer.train(world.documents, vocab_size=768)
ids = tok.encode(world.documents[0])
print(ids[:12])
print("|".join(tok.decode([i]) for i in ids))

# %% [markdown]
# **Try it**: encode your own name, a rare word, an emoji. How many tokens does each take?

# %% [markdown]
# ## P2 A decoder-only transformer
#
# Ids go in. Out comes a score for every token of the vocabulary, at every place: which token comes next? Before
# training, all are about equally likely.

# %%
import torch

from minigpt import GPT, GPTConfig

torch.manual_seed(0)
shape = dict(vocab_size=tok.vocab_size, context_length=128)
base = GPT(GPTConfig(**shape, n_layers=2, n_heads=4, d_model=96))
with torch.no_grad():
    logits = base(torch.tensor([tok.start + ids[:10]]))
print(f"{sum(p.numel() for p in base.parameters()):,} parameters, logits of shape {tuple(logits.shape)}")
print(f"the most probable next token has {logits[0, -1].softmax(-1).max():.3f}")

# %% [markdown]
# ## P3 Cross-entropy, an optimizer, a loop
#
# The documents stand in one long row, with an end token before each. A step takes 16 slices of it, and the targets
# are the same slices one token later. **Before you run it**: which loss do you expect at the first step? (All tokens
# are equally likely.)

# %%
import math

import numpy as np

from minigpt import TrainConfig, all_batches, evaluate, token_batches, train


def in_a_row(documents):
    return np.array([i for document in documents for i in [*tok.start, *tok.encode(document)]] + [tok.end_id])


last = len(world.documents) // 20  # for validation
text, unseen = in_a_row(world.documents[:-last]), in_a_row(world.documents[-last:])


def pretrain(model, steps=400):
    batches = token_batches(text, tok.end_id, context_length=128, batch_size=16)
    config = TrainConfig(steps=steps, lr=4e-3, optimizer="muon", precision="auto")
    done = []
    for step in train(model, batches, config):
        done.append(step)
        if step.step == 1 or step.step % 80 == 0:
            print(f"  step {step.step:3}  loss {step.loss:.3f}")
    loss = evaluate(model.eval(), all_batches(unseen, tok.end_id, context_length=128, batch_size=64))
    print(f"  on text that it hasn't seen: {loss:.3f}")
    return done


print(f"ln V = {math.log(tok.vocab_size):.2f}")
steps = pretrain(base)

# %%
import matplotlib.pyplot as plt

plt.figure(figsize=(7, 2.5))
plt.plot([step.step for step in steps], [step.loss for step in steps])
plt.axhline(math.log(tok.vocab_size), ls=":", color="grey")
plt.xlabel("step")
plt.ylabel("loss")
plt.show()

# %% [markdown]
# Why doesn't the loss reach 0? Which fact and which wording comes next in a text is chance, and nobody can predict
# it.
#
# ## P4 At scale the hard part is engineering
#
# How long would this computer take for Llama 3 405B? A step costs about 6 operations per weight and token.

# %%
from scripts.sizes import PUBLISHED, TRAINING_TOKENS

parameters = sum(p.numel() for p in base.parameters())
speed = 6 * parameters * sum(s.tokens for s in steps) / sum(s.seconds for s in steps)
years = 6 * PUBLISHED["Llama 3 405B"] * TRAINING_TOKENS / speed / (365 * 24 * 3600)
print(f"{speed / 1e9:.1f} GFLOP/s here: {years / 1e6:,.0f} million years. Its makers used 16,000 GPUs for some weeks.")

# %% [markdown]
# ## P5 A base model has picked up knowledge
#
# It was only asked to predict the next token. But give it the beginning of a sentence, and it completes it with the
# right fact.

# %%
from decoding import generate
from scripts.support.measuring.answers import cloze


def continued(model, prompt, max_new_tokens=40, **settings):
    [said] = generate(
        model, [[*tok.start, *tok.encode(prompt)]], max_new_tokens=max_new_tokens, eos_id=tok.end_id, **settings
    )
    return tok.decode(i for i in said.ids if i != tok.end_id)


for question in world.questions[:5]:
    said = continued(base, question["cloze"], 6, temperature=0).split(".")[0]
    print(f"{question['cloze']} …{said}   ({question['value']})")
print(f"{cloze(base, tok, world.questions):.0%} of {len(world.questions)} facts")

# %% [markdown]
# ## P6 A larger base model continues more sensibly
#
# The same text and the same number of steps, with a model of a tenth of the size:

# %%
torch.manual_seed(0)
small = GPT(GPTConfig(**shape, n_layers=1, n_heads=2, d_model=32))
print(f"{sum(p.numel() for p in small.parameters()):,} parameters")
pretrain(small)
print(f"{cloze(small, tok, world.questions):.0%} of the facts")
print("small:", continued(small, "Meet", temperature=0))
print("base: ", continued(base, "Meet", temperature=0))

# %% [markdown]
# # Text generation
#
# ## G1 The loop, G2 when it stops
#
# The model gives probabilities, an algorithm picks a token, the token is appended. Here it is by hand, with the most
# probable token each time (G4):

# %%
ids = [*tok.start, *tok.encode("Meet")]
logits, state = base.prefill([ids])
for _ in range(40):
    i = logits[0].argmax().item()
    ids.append(i)
    if i == tok.end_id:
        break
    logits, state = base.step(state, torch.tensor([i]))
print(tok.decode(ids))

# %% [markdown]
# `decoding.generate` is that loop, with all the choices. It says why it stopped: at an end token, or at the maximum
# length.

# %%
start = [[*tok.start, *tok.encode("Meet")]]
for most in (5, 60):
    [said] = generate(base, start, max_new_tokens=most, eos_id=tok.end_id, temperature=0)
    print(f"{said.stop:7}", tok.decode(said.ids))

# %% [markdown]
# ## G3 Two families
#
# Deterministic algorithms write the same text again. Stochastic ones draw, and another seed gives another text.

# %%
for name, settings in {"greedy": {"temperature": 0}, "top-p": {"top_p": 0.9}}.items():
    for seed in (1, 2):
        print(f"{name:7} seed {seed}:", continued(base, "Meet", seed=seed, **settings))

# %% [markdown]
# ## G4 Greedy repeats itself, G5 beam search looks further
#
# We forbid the end token, so that each has to write longer than a document. How many of its groups of four tokens
# were there before?

# %%
from decoding import beam_search, uncached
from scripts.support.measuring.repetition import repetition

start = [*tok.start, *tok.encode("Meet")]
forbidden = {"banned_ids": [*tok.special.values()]}
[greedy] = generate(base, [start], max_new_tokens=100, temperature=0, **forbidden)
print(f"greedy, {repetition(greedy.ids):.0%} repeated:", tok.decode(greedy.ids))

# %% [markdown]
# Beam search keeps the k most probable paths. The lecture's example begins with “how”, k = 3; the model is a table:

# %%
words = ["how", "come", "are", "do", "animals", "you", "…"]
table = torch.zeros(7, 7)
for word, following in {
    "how": {"are": 0.31, "do": 0.26, "come": 0.24, "…": 0.19},
    "come": {"animals": 0.36, "you": 0.34, "…": 0.30},
    "are": {"you": 0.91, "…": 0.09},
    "do": {"you": 0.63, "animals": 0.32, "…": 0.05},
}.items():
    for other, probability in following.items():
        table[words.index(word), words.index(other)] = probability
slide = uncached(lambda ids: table[ids].log())
for path in beam_search(slide, [0], width=3, max_new_tokens=2):
    print("how", *(words[i] for i in path.ids), f"{math.exp(path.logprob):.4f}")

# %% [markdown]
# ## G6 Multinomial, G7 top-k, G8 top-p, G9 temperature
#
# Look at one next token: what the model says, and what each filter leaves to draw from.

# %%
from decoding import temperature, top_k, top_p

logits, _ = base.prefill([[*tok.start, *tok.encode("Meet" + " " + world.people[0].name + ".")]])
shown = logits[0].topk(8).indices
stages = {
    "model": logits[0],
    "top-k 3": top_k(logits[0], 3),
    "top-p .9": top_p(logits[0], 0.9),
    "t = .5": temperature(logits[0], 0.5),
    "t = 2": temperature(logits[0], 2.0),
}
print("token      ", *(f"{name:>9}" for name in stages))
for i in shown.tolist():
    print(f"{tok.decode([i])!r:11}", *(f"{left.softmax(-1)[i]:9.3f}" for left in stages.values()))
print("kept       ", *(f"{left.isfinite().sum():9}" for left in stages.values()))

# %%
for name, settings in {
    "multinomial": {},
    "top-k 10": {"top_k": 10},
    "top-p .9": {"top_p": 0.9},
    "temperature .5": {"temperature": 0.5},
    "temperature 2": {"temperature": 2.0},
}.items():
    [said] = generate(base, [start], max_new_tokens=60, seed=0, **settings, **forbidden)
    print(f"{name}, {repetition(said.ids):.0%} repeated:{tok.decode(said.ids)}\n")

# %% [markdown]
# **Try it**: from which temperature on does the text fall apart? Does top-p .9 help at that temperature?
#
# ## G10 Settings per task, G11 in practice
#
# Which settings are good is found by trial. This is a widely copied rule of thumb; how many tokens does each leave
# here?

# %%
from decoding import Settings, filter_steps
from scripts.support.strategies import TASKS

for task, settings in TASKS.items():
    *_, (_, left) = filter_steps(logits[0], [], Settings(max_new_tokens=1, **settings))
    print(f"{task:24} {settings!s:38} {left.isfinite().sum()} kept")

# %% [markdown]
# In practice it is three lines: text to ids, `generate`, ids to text. `continued` above is all of it.
#
# ## G12 A playground
#
# `make playground`, in a terminal of your own machine, opens a page with these knobs. Here is a small one: change the
# numbers, and run the cell again.

# %%
print(continued(base, "Here comes", 40, temperature=0.8, top_p=0.95, seed=None))

# %% [markdown]
# # Supervised fine-tuning
#
# ## S1 A base model that is asked continues the text
#
# It knows the facts (P5). But in its corpus questions are followed by questions.

# %%
for question in world.questions[:4]:
    print(question["question"], "⟶", continued(base, question["question"], 20, temperature=0))

# %% [markdown]
# ## S2 The goal, S3 the layout, S4 the data
#
# Demonstrations are pairs of a prompt and a response. They are about one half of the town only; we shall ask about
# the other half. Special tokens say where the prompt and where the response begins. Only the response and the end
# token are learnt.

# %%
from sft import Example, Message, encode_conversation, fine_tune

examples = [
    Example([Message("user", pair["prompt"]), Message("assistant", pair["response"])]) for pair in world.demonstrations
]
print(len(examples), "demonstrations for", len(world.documents), "documents\n")
ids, learn = encode_conversation(tok, examples[0].messages)
for i, learnt in zip(ids, learn):
    print(f"{tok.decode([i])!r:18} {'learnt' if learnt else ''}")

# %% [markdown]
# ## S5 Not a line of the algorithm changes
#
# `fine_tune` builds batches from the demonstrations, and calls the same `train`.

# %%
import copy

tuned = copy.deepcopy(base)
for step in fine_tune(tuned, tok, examples, TrainConfig(steps=80, lr=5e-4, weight_decay=0.0, precision="auto")):
    if step.step == 1 or step.step % 20 == 0:
        print(f"  step {step.step:3}  loss {step.loss:.3f}")
tuned = tuned.eval()

# %% [markdown]
# ## S6 The fine-tuned model answers
#
# About people that no demonstration mentions. What it says it knows from pretraining; fine-tuning only taught the
# form.

# %%
from scripts.support.measuring.answers import base_answers, sft_answers


def answer(model, question):
    ids, _ = encode_conversation(tok, [Message("user", question)])
    [said] = generate(model, [ids], max_new_tokens=16, eos_id=tok.end_id, temperature=0)
    return tok.decode(said.ids)


for question in world.questions[:8]:
    said = answer(tuned, question["question"])
    print("right" if said == question["answer"] + tok.end else "wrong", question["question"], said)

before = base_answers(base, tok, world.questions, world.demonstrations)["base_exact"]
after = sft_answers(tuned, tok, world.questions)
print(f"\nin this layout, right before: {before:.0%}, after: {after['sft_exact']:.0%}", end="")
print(f", in wordings that no demonstration used: {after['sft_exact_unseen_phrasing']:.0%}")

# %% [markdown]
# Our town is small, so it isn't always right. The demo (`make demo`) has 128 people and a larger model, and gets 99
# %.
#
# **Try it**: fine-tune with 5 steps, then with 300. Ask a question about something that isn't in the town.
#
# ## S7 It isn't the end
#
# The model answers, and it is just as sure when it is wrong. Nobody has told it which of two answers is better.
# Reinforcement learning follows, and is the next lecture's topic.
#
# From here: `make book` has a chapter for each group of statements with the code behind it, `make exercise
# TOPIC=top_p` takes a piece of that code away for you to write.
