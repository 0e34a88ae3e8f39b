# The two commands of the README, and what CI runs. Everything happens in .venv.
PYTHON ?= python3
WORKDIR ?= runs/demo
INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

.PHONY: demo test test-all test-lowest doctest benchmark docs lint format clean

# The paper's experiment on 5,000 real MNIST digits: runs/demo/.
demo: .venv/installed
	.venv/bin/python -m experiments.demo --workdir=$(WORKDIR)

test: .venv/installed-dev
	.venv/bin/python -m pytest -q --numprocesses=2 --dist=worksteal

# The slow tests too, those of Ray, submitit and Dask among them.
test-all: .venv/installed-engines
	IOCA_SLOW=1 .venv/bin/python -m pytest -q --numprocesses=2 --dist=worksteal

# The tests of LOWEST with the oldest versions that pyproject.toml allows.
LOWEST ?= tests/results/test_schema.py tests/plots/test_neurons.py
# Old packages use what their newer dependencies will remove, and xarray warned of the
# deviation of missing values.
OLD = -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning \
	-W ignore::FutureWarning -W "ignore:Degrees of freedom:RuntimeWarning"
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -q $(OLD) $(LOWEST)

# Every example of the docstrings.
doctest: .venv/installed-dev
	IOCA_SLOW=1 .venv/bin/python -m pytest -q tests/test_docstrings.py

# About half an hour; the figures are in runs/benchmark.json.
benchmark: .venv/installed-benchmark
	.venv/bin/python -m experiments.benchmark --measure_memory=ours

# The documentation site, notebooks executed: build/docs/html/index.html.
docs: .venv/installed-docs
	.venv/bin/python -m sphinx -W --keep-going -q -d build/docs/doctrees docs build/docs/html

lint: .venv/installed-dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright

format: .venv/installed-dev
	.venv/bin/ruff check --fix --quiet . || true
	.venv/bin/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[data,sweep]'
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	touch $@

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
		--resolution=lowest-direct --editable '.[test]'
	touch $@

.venv/installed-engines: .venv/installed-dev
	$(INSTALL) --editable '.[ray,slurm]' distributed
	touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) --editable '.[docs]'
	touch $@

.venv/installed-benchmark: .venv/installed
	$(INSTALL) --editable '.[benchmark]'
	touch $@

clean:
	rm -rf .venv .venv-lowest build dist .pytest_cache .ruff_cache .hypothesis .test_cache
