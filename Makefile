# The two commands: `make demo` and `make test`. Each makes its own virtual environment once.
VENV ?= .venv
JOBS ?= 2
PYTHON ?= python3
PY := $(VENV)/bin/python
SOURCE ?= demo/photos
OUTPUT ?= demo/output
MINUTES ?= 10
SEED ?= 0
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.installed-for-the-demo
PIP := $(PY) -m pip install --quiet --constraint constraints.txt
NOT_QUICK := --ignore=tests/flows --ignore=tests/chaos --ignore=tests/benchmarks  # slow to import, and no hearts in them
PYTEST := $(PY) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder  # the long files come first

export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false

.PHONY: install demo demo-s3 quick test coverage check docs chaos fuzz clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable '.[dev]'
	touch $@ $(DEMO)

$(DEMO): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable '.[demo]'
	touch $@

demo: $(DEMO)  ## dehaze real photographs with the built-in model; SOURCE=folder takes your own
	$(PY) -m flows.demo $(SOURCE) $(OUTPUT)

demo-s3: $(STAMP)  ## the same job against a real S3 server on this machine
	$(PY) -m deployments.demo_s3

quick: $(STAMP)  ## about a minute: the unit tests and a few of the rest that fail when the heart is broken
	HYPOTHESIS_PROFILE=quick $(PYTEST) -m '(unit and not long) or heart' -q $(NOT_QUICK)

test: $(STAMP)  ## every test but the chaos tests
	$(PYTEST)

coverage: $(STAMP)  ## which lines the tests reach; the figure stands in CONTRIBUTING.md
	$(PYTEST) --cov --cov-report=term:skip-covered

chaos: $(STAMP)  ## the long fault tests
	$(PY) -m pytest -m chaos -s

fuzz: $(STAMP)  ## mutated photos, manifests, addresses, Parquet and settings for MINUTES; what breaks is kept in build/fuzz
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz.run $(MINUTES) $(SEED)

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy  # strict, by pyproject.toml

docs: $(STAMP)  ## the guides and the API reference as pages, in build/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
