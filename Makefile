# policyctl. `make demo` and `make test` set up what they need in .venv; nothing else is required
# but Python 3.11 or newer. TORCH_INDEX names a wheel index for torch (CPU or CUDA builds).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_INDEX ?=
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
WORKERS ?= 2
# One thread per linear-algebra call: the work is spread over processes, and results keep their bits.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
# Compiled modules are kept: a test run starts hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick check fix bench conformance build lock clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "policyctl needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet $(INDEX) -c constraints.txt -e '.[sim,robot,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml constraints.txt
	$(PIP) install --quiet $(INDEX) -c constraints.txt -e '.[all]' --group dev
	@touch $@

demo: $(VENV)/.run  ## four policies travel the whole road, on this machine
	$(BIN)/policyctl demo $(ARGS)

test: $(VENV)/.dev  ## everything
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -rsR

quick: $(VENV)/.dev  ## the unit tier
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m 'not slow' -rsR

check: $(VENV)/.dev  ## static checks: format, lint, types, rooms, workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/zizmor --offline --quiet .github

fix: $(VENV)/.dev  ## repair what a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## every benchmark; fails where a floor is missed
	@status=0; for b in benchmarks/*.py; do echo "# $$b" >&2; $(BIN)/python $$b || status=1; done; exit $$status

conformance: $(VENV)/.dev  ## the public TUF suite; SUITE=DIR is a checkout of tuf-conformance
	@test -d "$(SUITE)/tuf_conformance" || { echo "SUITE=DIR must name a checkout of" \
	  "https://github.com/theupdateframework/tuf-conformance"; exit 2; }
	@command -v faketime >/dev/null || { echo "the suite needs faketime: apt-get install faketime"; exit 2; }
	$(BIN)/pytest $(abspath $(SUITE))/tuf_conformance -rfExX -p no:cacheprovider \
	  -c $(abspath $(SUITE))/pyproject.toml --rootdir $(abspath $(SUITE)) \
	  --entrypoint "$(abspath $(BIN))/python $(abspath tests/conformance/tuf_client.py)"

build: $(VENV)/.dev  ## the wheel, tried in an environment of its own without any extra
	rm -rf dist
	$(PIP) wheel --quiet --no-deps -w dist .
	$(BIN)/python -m venv dist/venv
	dist/venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt dist/*.whl
	cd dist && venv/bin/policyctl init home && venv/bin/policyctl list --home home && venv/bin/policyctl doctor

lock:  ## constraints.txt for all platforms (needs uv)
	uv pip compile --universal --python-version 3.11 --no-header --no-annotate --all-extras --group dev \
	  pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
