# RLHF Labs. `make` alone lists the targets; every one of them makes the environment first.

PYTHON ?= python3
PYTEST_ARGS ?=
LAB_ARGS ?=
PLAIN := ppo ppo_guard losses rewards logprobs decoder rollout
NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb)) $(wildcard notebooks/labs/*.ipynb)

VENV := .venv
BIN := $(VENV)/bin/python
READY := $(VENV)/.ready

# Notebooks are tested and saved from an empty run folder, on the tiny profile, without the network, so that they show
# the same on every machine. (tests/conftest.py does the like for the tests.)
REPEATABLE = rm -rf build/runs && LABKIT_PROFILE=tiny HF_HUB_OFFLINE=1

# kaleido draws the static charts with a browser that is here already.
BROWSER_PATH ?= $(shell for b in chromium chromium-browser google-chrome; do command -v $$b && break; done)
ifneq ($(BROWSER_PATH),)
export BROWSER_PATH
endif

# Jupyter refuses to start as root (the usual user in a container) unless told.
ifeq ($(shell id -u),0)
AS_ROOT := --allow-root
endif

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install lab test test-code test-plain test-notebooks faults mutants drift figures run notebooks solutions assignment lint lock badges clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

lab: $(READY) ## open JupyterLab at the first notebook
	$(BIN) -m jupyter lab $(AS_ROOT) $(LAB_ARGS) notebooks/00_start_here.ipynb

test: test-code test-notebooks ## run every test, notebooks included

test-code: $(READY) ## run the tests of labkit alone (PYTEST_ARGS="-k gae" picks some)
	$(BIN) -m pytest tests $(PYTEST_ARGS)

# The wires of PPO and the formulas, on the plainest arithmetic that torch has: no test may hang on how a processor rounds.
test-plain: $(READY) ## run the wiring and maths tests as on a processor without vector units, on one thread
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN) -m pytest $(addprefix tests/test_,$(addsuffix .py,$(PLAIN))) $(PYTEST_ARGS)

test-notebooks: $(READY) ## run the notebooks and compare their marked cells (NOTEBOOKS=... picks some)
	$(REPEATABLE) LABKIT_RUNS=$(CURDIR)/build/runs $(BIN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 \
		--nbval-sanitize-with=tests/nbval.cfg $(if $(NOTEBOOKS),$(NOTEBOOKS),notebooks) $(PYTEST_ARGS)

faults: $(READY) ## try every fault of tests/faults.md in full: tried, survived, bytes lost (half an hour)
	$(BIN) tests/faults.py

mutants: $(READY) ## cross every wire of the learning code in turn, and show the test that notices
	$(BIN) tests/mutants.py

# With other versions than the lock's, in environments of their own under build/ (PINS="torch==2.13.0" holds one).
drift: $(READY) ## run tests and notebooks with the newest and the oldest versions allowed, and say what moved
	cd tests && for which in newest oldest; do ../$(BIN) drift.py $$which $(PINS) || failed=1; done; exit $${failed:-0}

figures: $(READY) ## after `make notebooks`: tests/figures.json anew, the figures that `make drift` judges by
	cd tests && ../$(BIN) drift.py write

run: $(READY) ## run the whole series without notebooks: every stage, then a report
	$(BIN) -m labkit run

# They print the runs folder, so it is named as each one's folder sees it.
notebooks: $(READY) ## execute the notebooks again and save their outputs (NOTEBOOKS=... picks some)
	rm -rf build/runs
	for one in $(NOTEBOOKS); do \
		export LABKIT_PROFILE=tiny HF_HUB_OFFLINE=1 LABKIT_STATIC_CHARTS=1; \
		LABKIT_RUNS=$$(dirname $$one | sed 's|[^/]*|..|g')/build/runs \
		$(BIN) -m jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.timeout=900 \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False $$one || exit 1; \
	done
	$(BIN) tests/saved.py $(NOTEBOOKS)

solutions: $(READY) ## run the notebooks with their folded solutions filled in: every checker must be green (NOTEBOOKS=...)
	$(REPEATABLE) $(BIN) -m labkit.bench.exercises solutions $(NOTEBOOKS)

assignment: $(READY) ## write the notebooks as nbgrader's source: answers between marks, hidden tests (NOTEBOOKS=...)
	$(BIN) -m labkit.bench.exercises assignment $(NOTEBOOKS)

lint: $(READY) ## check style and formatting
	$(BIN) -m ruff check labkit tests data/build.py
	$(BIN) -m ruff format --check labkit tests data/build.py

install: $(READY) ## make the environment in .venv, and no more

# Made anew only when the lock or pyproject.toml is newer. The stamp comes last: a broken-off install is not taken for a whole one.
# torch comes first and by itself: its builds (CUDA or CPU) have other hashes, and it alone brings packages that are not locked.
$(READY): requirements.lock requirements.hashes pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no \`$(PYTHON)\` here. Install Python 3.11 or newer, or name yours: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "RLHF Labs needs Python 3.11 or newer, and \`$(PYTHON)\` is older. Name a newer one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' || { \
		echo "\`$(PYTHON)\` cannot make environments. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN) -m pip install "$$(grep -oE '^torch==[^ ]+' requirements.lock)"
	$(BIN) -m pip install --no-deps --require-hashes -r requirements.hashes
	$(BIN) -m pip install --no-deps --no-build-isolation -e .
	@touch $@

# The lock holds neither torch's CUDA packages (torch asks for its own where they are wanted) nor what only a browser build needs.
lock: ## for maintainers: resolve requirements.lock again after editing pyproject.toml (needs uv)
	mkdir -p build && sed '/^[^#]/,$$d' requirements.lock > build/lock.head
	uv pip compile pyproject.toml --extra lab --extra dev --extra go --universal --python-version 3.11 \
		--annotation-style line --no-header --quiet --output-file requirements.lock
	grep -vE '^(nvidia|cuda|triton|httpx2-jsfetch)' requirements.lock | cat build/lock.head - > build/lock
	mv build/lock requirements.lock
	sed '/^torch==/d' requirements.lock | uv pip compile - --no-deps --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --quiet --output-file requirements.hashes

badges: $(READY) ## for maintainers: write the repository's address anew wherever it stands (REPO=owner/name)
	$(BIN) -m labkit.launch $(REPO)

clean: ## remove .venv and build/ (your runs stay)
	rm -rf $(VENV) build
