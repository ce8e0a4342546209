PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo plugins test test-slow bench check clean

demo: $(VENV)/.installed          ## re-pose a synthetic person with the demo checkpoint; pictures in demo-out/
	$(BIN)/posewarp demo --output demo-out

plugins:                          ## the native libraries that this machine can build, into runtime/lib
	@VENV=$(VENV) PYTHON=$(PYTHON) sh plugins/build.sh

test: $(VENV)/.installed plugins  ## the fast suite
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed plugins  ## what is marked slow besides
	$(BIN)/pytest -n 2 -m slow

bench: $(VENV)/.installed plugins  ## latency of the demo model with everything here that can run it
	$(BIN)/python benchmarks/latency.py

check: $(VENV)/.installed         ## lint and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# One environment for all of these: -e, so that a changed source needs no second install.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@echo "making the environment in $(VENV): torch, onnxruntime and others; minutes where they must be downloaded"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps rtmlib  # see setup.cfg, pose
	touch $@

clean:
	rm -rf $(VENV) demo-out build runtime/lib *.egg-info
