# make demo: from nothing to a trained, sampled and measured model.  make test: lint, types, tests.
# make test-full: the long forms too (more examples, sizes and whole runs).  make test-long: these alone.
# make demo-few: a run, and a model that samples in one step made of it; both as pictures, and in figures; five minutes.
# make demo-adapt: digits without 7s, then taught 7 by fifty of them; what was learnt and what stayed, in pictures and figures.
# make bench-adapt MNIST=mnist/: the same of MNIST, what an adapter costs when sampling, and the memory of training one.
# make demo-text: text to image from nothing: scenes of shapes, trained, asked for by prompts, read by a judge; ten minutes.
# make bench-sample: the sampler against its own network and against its peers.  make tables: measure docs/{sample,guide}.md anew.
# make rules MNIST=mnist/: the tables of docs/rules.md, each rule measured (half an hour of one core; goes on where it stopped).
# make stub: ebb/__init__.pyi from the table in ebb/__init__.py, after a name was added there.
# make bench-quality MNIST=mnist/ CIFAR10=cifar10-train.zip: ebb against its peers at equal seconds, into RESULTS=runs/quality
#   (nine hours of training and half as many of sampling; the same command goes on where it stopped).
# make bench-step: a training step against peers: images/s at equal arithmetic, memory, time to the first update.
# make bench-busy: training, sampling and judging alone and beside another program, peers too (a quarter of an hour).
# make bench-incident: runs that diverge after thousands of updates, at which noise level, and what stops them (minutes).
# make bench-evaluate RUN=runs/mnist: what evaluating costs, what the guard saves, what the doctor finds (half an hour).
# make bench-concept: a new word alone that says in one word what takes a run of scenes three (by counts; twenty minutes).
# make bench-control: do samples follow the edges that are asked for; a quarter of an hour.
# make bench-few RUN=runs/mnist-few: guidance that a few-step model is told, against its teacher's (minutes).
# make bench-few-peers RUN=runs/small: few steps by `ebb distil`, by reflow and by consistency tuning on diffusers' network, in equal seconds.
# make bench-words: which remedy brings things that a prompt asked for and a small run of scenes does not show.
PYTHON ?= python3
BIN := .venv/bin
RESULTS := runs/quality
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# what was compiled once is kept, whatever the environment says: thousands of lines are, with their checks, in each process
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 10

.PHONY: demo demo-few demo-adapt demo-text test test-full test-long lint types format bench-sample bench-quality bench-step bench-busy bench-evaluate bench-guard bench-doctor bench-incident bench-control bench-cures bench-words bench-adapt bench-concept bench-few bench-few-peers tables rules stub clean

demo: .venv/demo
	$(BIN)/ebb train digits --run runs/demo --budget 1m
	$(BIN)/ebb sample runs/demo --n 100 --out runs/demo/samples.png
	$(BIN)/ebb evaluate runs/demo --n 1000
	@echo "picture  runs/demo/samples.png"

demo-few: .venv/demo
	@mkdir -p runs/demo-few
	$(BIN)/ebb train digits --run runs/demo-few/teacher --budget 2m
	$(BIN)/ebb distil runs/demo-few/teacher --run runs/demo-few/student --budget 1m
	$(BIN)/ebb sample runs/demo-few/teacher --n 64 --out runs/demo-few/many-steps.png
	$(BIN)/ebb sample runs/demo-few/student --n 64 --steps 1 --out runs/demo-few/one-step.png
	$(BIN)/ebb evaluate runs/demo-few/student --n 500 --features quick --likelihood 0
	@echo "pictures  runs/demo-few/many-steps.png  runs/demo-few/one-step.png"

demo-adapt: .venv/demo
	$(BIN)/python bench/adapt.py seven digits --out runs/demo-adapt --train 90s --budget 30s --n 50 --ways 2
	$(BIN)/ebb sample runs/demo-adapt/base --n 54 --out runs/demo-adapt/before.png
	$(BIN)/ebb sample runs/demo-adapt/base --adapter runs/demo-adapt/adapted --n 60 --out runs/demo-adapt/after.png
	$(BIN)/ebb sample runs/demo-adapt/adapted --label 7 --n 64 --out runs/demo-adapt/sevens.png
	$(BIN)/ebb train shapes --run runs/demo-adapt/scenes --budget 60s --network.width 32 --text.captions ignored \
		--times "logit_normal(mean=1.0)"
	$(BIN)/ebb adapt runs/demo-adapt/scenes shapes --control edges --budget 60s
	$(BIN)/ebb sample runs/demo-adapt/scenes-edges --control edges=docs/pictures/house.png --n 18 \
		--out runs/demo-adapt/houses.png
	@echo "pictures  runs/demo-adapt/before.png  runs/demo-adapt/after.png  runs/demo-adapt/sevens.png  runs/demo-adapt/houses.png"

demo-text: .venv/demo
	$(BIN)/ebb train shapes --run runs/shapes --budget 6m --batch 64 --network.width 64 \
		--times "logit_normal(mean=1.0)"
	$(BIN)/ebb sample runs/shapes --n 18 --guidance 2 --out runs/shapes/prompts.png --text \
		"a red circle and a blue square" "a large green triangle above a small yellow circle" \
		"a white square at the top left, a red circle at the top right and a small blue circle at the bottom left"
	$(BIN)/ebb sample runs/shapes --n 8 --guidance 2 --out runs/shapes/composed.png --text \
		"a scene with a large red circle at the top left" "a scene with a small yellow triangle at the bottom right" \
		"a scene with nothing at the top right" "a scene with a white square at the bottom left" \
		--regions "top left" "bottom right" "top right" "bottom left"
	$(BIN)/ebb evaluate runs/shapes --n 500
	@echo "pictures  runs/shapes/prompts.png  runs/shapes/composed.png"

test: lint types
	$(PYTEST)

test-full: lint types
	$(PYTEST) --full

test-long: .venv/dev
	$(PYTEST) --full -m full

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ebb needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[demo]"
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[dev]"
	@touch $@

bench-sample: .venv-bench/done
	.venv-bench/bin/python bench/overhead.py
	.venv-bench/bin/python bench/end_to_end.py

bench-quality: .venv-bench/done
	.venv-bench/bin/python bench/quality/run.py --mnist "$(MNIST)" --cifar10 "$(CIFAR10)" --results $(RESULTS)
	.venv-bench/bin/python bench/quality/table.py --results $(RESULTS)
	.venv-bench/bin/python bench/quality/plot.py --results $(RESULTS)

bench-step: .venv-bench/done .venv/demo
	.venv-bench/bin/python bench/step.py

bench-busy: .venv-bench/done
	.venv-bench/bin/python bench/busy.py

bench-evaluate: bench-guard bench-doctor
	$(BIN)/python bench/evaluate.py $(RUN)

bench-guard: .venv/dev
	$(BIN)/python bench/guard.py

bench-doctor: .venv/dev
	$(BIN)/python bench/doctor.py --seed 1

bench-incident: .venv/dev
	$(BIN)/python bench/incident.py

bench-control: .venv/dev
	$(BIN)/python bench/control.py follow runs/bench-control

bench-few: .venv/dev
	$(BIN)/python bench/few.py guidance $(RUN)

bench-few-peers: .venv-bench/done
	.venv-bench/bin/python bench/few_peers.py $(RUN)

bench-words: .venv/dev
	$(BIN)/ebb train shapes --run runs/words --steps 1000 --batch 64 --network.width 32 \
		--precision fp32 --sheets 1 --times "logit_normal(mean=1.0)"
	$(BIN)/python bench/words.py runs/words

bench-adapt: .venv/dev
	$(BIN)/python bench/adapt.py seven "$(MNIST)" --out runs/bench-adapt --budget 90s
	$(BIN)/python bench/adapt.py speed runs/bench-adapt/base runs/bench-adapt/adapted
	$(BIN)/python bench/adapt.py memory

bench-concept: .venv/dev
	$(BIN)/python bench/concept.py runs/concept

bench-cures: .venv/dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python bench/doctor.py --cures --seed 1

tables: .venv/dev
	$(BIN)/python docs/tables.py

rules: .venv/dev
	$(BIN)/python bench/rules.py --data digits "$(MNIST)"

stub: .venv/dev
	$(BIN)/python docs/stub.py

# peers install what they can; denoising-diffusion-pytorch asks for torchvision, which its sampler does not use
.venv-bench/done: pyproject.toml bench/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable . -r bench/requirements.txt
	.venv-bench/bin/python -m pip install --quiet --no-deps denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3
	@touch $@

clean:
	rm -rf .venv .venv-bench runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
