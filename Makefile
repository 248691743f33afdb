# make install   the environment .venv, from the lock file          make demo          one small run from end to end (wait-k)
# make test      linters, types and tests: all that CI runs         make demo-east     the same for EAST
# make bench     the measurements in benchmarks/                    make demo-compare  every method, side by side
# make screenshots  the pictures of the page in docs/images/, of the model of yaml_configs/smollm2_135m_*.yaml
# make lock      a new .ci/requirements.txt
# make clean     removes .venv, builds and caches; keeps the results of trainings and evaluations in output/ and saves/
# make distclean also removes the folders of the demos; keeps everything else in output/ and saves/

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
WORKERS ?= 2

# The stock torchvision and torchaudio are CUDA builds, which fail at import with a CPU build of torch.
ifneq ($(shell command -v nvidia-smi 2>/dev/null),)
TORCH += torchvision torchaudio
endif

# LLaMA-Factory looks for torchrun in PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: install test lint demo demo-east demo-compare bench screenshots lock clean distclean

install: .venv/.installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

# pip installs torch first, in the build that this machine is configured for. What follows is the complete lock,
# so nothing else is resolved; compiled byte code saves 4-5 s at every start where Python writes none.
.venv/.installed: setup.py pyproject.toml .ci/requirements.txt .ci/alone.txt | .venv/bin/python
	@echo "make install, 1 of 3: $(TORCH), the largest download"
	.venv/bin/python -m pip install --constraint .ci/requirements.txt uv $(TORCH)
	@echo "make install, 2 of 3: the packages of .ci/requirements.txt"
	.venv/bin/uv pip install --python .venv/bin/python --no-deps --compile-bytecode -r .ci/requirements.txt -r .ci/alone.txt
	@echo "make install, 3 of 3: the plugin itself, editable"
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "make install: done; .venv/bin/simulmask env lists what is installed"

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

screenshots: install
	.venv/bin/python benchmarks/screenshots.py

lock: | .venv/bin/python
	.venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
		--overrides .ci/overrides.txt --output-file .ci/requirements.txt .ci/requirements.in

DEMOS := output/demo output/demo_east output/demo_compare

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	@echo "output/ and saves/ are left as they were: results are in there."

distclean: clean
	rm -rf $(DEMOS)
