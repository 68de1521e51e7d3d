PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/ready
LINT   := $(VENV)/lint
ARGS   ?=

# Run the main job on an example that lies in the repository.
plan: $(READY)
	$(PY) -m llmq plan examples/chat.toml $(ARGS)

# The quick suite: every file, without the long property tests.
test: $(READY)
	$(PY) -m pytest -q -n 2 -m "not slow" $(ARGS)

# Every optional dependency, so that no test skips for want of one.
extras: $(LINT)

# Everything: style, types, the long property tests.
check: $(LINT)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q -n 2 -m slow $(ARGS)

# The quick suite on new random examples: ARGS="--hypothesis-seed=7" repeats a draw.
explore: $(READY)
	HYPOTHESIS_PROFILE=explore $(PY) -m pytest -q -n 2 -m "not slow" $(ARGS)

# The ledger of theorems: every command of every entry is run, tests included (minutes).
proofs: $(READY)
	$(PY) -m proofs.ledger --run $(ARGS)

# Redraw every figure of paper_figs/ from the committed tables, and the gallery.
figures: $(READY)
	$(PY) -m paper_figs $(ARGS)

# The site of docs/ and a reference of the public names, in .site/ (fetches mkdocs).
site: $(READY)
	$(PY) -m uv pip install -q --python $(PY) -c constraints.txt -e '.[docs]' || \
	   $(PY) -m pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build -q -f website/mkdocs.yml

# Compute the tables again, and the page of claims: ARGS="slai_rates --workers 2" computes one.
experiments: $(READY)
	$(PY) -m experiments $(ARGS)
	$(PY) -m experiments --claims

# The speed table: CPU-seconds and ratios to the naive loop, in one run.
bench: $(READY)
	$(PY) -m experiments.speed $(ARGS)

# The size and shape of the code: folders, circles of imports, documentation, comments.
measure: $(READY)
	$(PY) -m experiments.measure

# Invariants on a million random runs; resumes at a system: ARGS="--start 5000 --runs 100000".
soak: $(READY)
	$(PY) -m experiments.soak $(ARGS)

# Refresh the pinned versions (uv; holds for Python 3.11 and newer).
constraints: $(READY)
	$(PY) -m uv pip compile --universal --python-version 3.11 --no-header --no-annotate --upgrade \
		--all-extras -q -o constraints.txt pyproject.toml
	printf 'uv==%s\n' "$$($(PY) -m uv --version | cut -d' ' -f2)" >> constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v=sys.version_info; sys.exit(v < (3, 11) and "llmq needs Python 3.11 or newer, found %d.%d; try make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@( $(PY) -m pip install -q -c constraints.txt uv && \
	   $(PY) -m uv pip install -q --python $(PY) -c constraints.txt -e '.[test]' ) || \
	   $(PY) -m pip install -q -c constraints.txt -e '.[test]'
	@rm -f $(LINT)
	@touch $@

$(LINT): $(READY)
	@$(PY) -m uv pip install -q --python $(PY) -c constraints.txt -e '.[check]' || \
	   $(PY) -m pip install -q -c constraints.txt -e '.[check]'
	@touch $@

.PHONY: plan test extras check explore proofs figures experiments bench measure constraints soak site
