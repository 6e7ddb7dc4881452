# The two commands: `make run` and `make test`. Everything else is listed by `make help`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
GPU_PYTHON ?= $(BIN)/python

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: run
run: $(STAMP) ## train the default experiment (ARGS="optimizer=sgd" adds overrides)
	$(BIN)/optim-run $(ARGS)

.PHONY: test
test: $(STAMP) ## run the tests (ARGS="-k foreach" adds options)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-gpu
test-gpu: ## run the tests that need a CUDA device, with GPU_PYTHON (default: .venv's)
	$(GPU_PYTHON) -m pytest -m gpu $(ARGS)

.PHONY: check
check: $(STAMP) ## format, lint and type-check
	$(BIN)/ruff format $(RUFF_FORMAT)
	$(BIN)/ruff check
	$(BIN)/mypy

.PHONY: constraints
constraints: $(STAMP) ## pin the newest versions anew (see constraints.in)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header \
		-c constraints.in --extra dev pyproject.toml -o constraints.txt
	$(BIN)/uv --version | awk '{print "uv==" $$2}' >> constraints.txt
