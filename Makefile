# make install   the environment .venv, from the lock file          make demo          one small run from end to end (wait-k)
# make test      linters, types and tests: all that CI runs         make demo-east     the same for EAST
# make bench     the measurements in benchmarks/                    make demo-compare  every method, side by side
# make lock      a new .ci/requirements.txt                         make clean         everything that these targets made

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
WORKERS ?= 2

# The stock torchvision and torchaudio are builds for CUDA: beside a torch for the CPU they fail at import.
ifneq ($(shell command -v nvidia-smi 2>/dev/null),)
TORCH += torchvision torchaudio
endif

# LLaMA-Factory looks for torchrun in PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: install test lint demo demo-east demo-compare bench lock clean

install: .venv/.installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch comes first and by pip, which finds the build that this machine is set up for. What follows is the whole lock,
# so nothing is resolved any more; byte code is compiled because it saves 4-5 s at every start where Python writes none.
.venv/.installed: setup.py pyproject.toml .ci/requirements.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet --constraint .ci/requirements.txt uv $(TORCH)
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --compile-bytecode -r .ci/requirements.txt
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

test: lint
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -n $(WORKERS)

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

demo: install
	.venv/bin/python east_scripts/demo.py

demo-east: install
	.venv/bin/python east_scripts/demo.py --method east

demo-compare: install
	.venv/bin/python east_scripts/demo.py --method compare

bench: install
	.venv/bin/python benchmarks/run.py

lock: | .venv/bin/python
	.venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
		--overrides .ci/overrides.txt --output-file .ci/requirements.txt .ci/requirements.in

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
