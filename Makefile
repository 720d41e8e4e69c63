# Needs python3 (3.11 or newer) with its venv module, make and, for one test, Node.js; everything else
# comes into .venv.
#
#   make demo   [ARGS="--once --devices 5"]   the main job, shown on this machine
#        with ARGS="--camera modlib-twin"     the same through Sony's modlib, on a sensor of software
#   make test   [ARGS="-k trust"]             the tests
#   make test-twin                            the tests that need modlib and picamera2 (400 MB, once)
#   make test-export                          a model trained, built and rolled out for real (as export; minutes)
#   make bench  [ARGS="-o json"]              decoders beside modlib's, the main job with 1 to 200 agents (minutes)
#   make bench-scale [ARGS="--agents 2000"] many connections through three waves, on both brokers
#   make bench-export [ARGS="--sizes 320"]   the exporter beside `yolo export format=imx` (as export; an hour)
#   make export-matrix [ARGS="--models DIR"] every family, task and size through the exporter (as export; hours)
#   make deb    [ARGS="--arch arm64"]         the Debian packages of fleet-agent, in dist/
#   make test-deb                             installs and runs them in a throwaway Debian (as root; minutes)
#   make check                                lint, format, types, import direction
#   make export                               installs what `fleetctl model build` needs (torch; Java 17)
#   make clean                                take .venv and the caches away

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# modlib and the exporter want different versions of numpy: twins of the sensor live by themselves.
TWIN := .venv-twin
# Without its own requirements: one of them builds only where libcap's headers are, for recordings.
PICAMERA2 := picamera2==0.3.38
# By exact version, and before everything else: a plain range brings another build.
TORCH := torch==2.14.1 torchvision==0.29.1

.PHONY: help demo test test-twin test-export bench bench-scale bench-export export-matrix deb test-deb check export clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(if $(findstring -twin,$(ARGS)),$(TWIN)/.twin,.venv/.demo)
	@$(if $(findstring -twin,$(ARGS)),$(TWIN)/bin,$(BIN))/fleetctl demo $(ARGS)

test: .venv/.dev
	@$(BIN)/python -m pytest $(ARGS)

test-twin: $(TWIN)/.twin
	@$(TWIN)/bin/python -m pytest -m twin $(ARGS)

# Shown as it runs: it takes minutes.
test-export: .venv/.export
	@$(BIN)/python -m pytest -m export --capture=no tests/export $(ARGS)

# First the decoders beside modlib's, where modlib is installed.
bench: .venv/.dev $(TWIN)/.twin
	@$(TWIN)/bin/python -m benchmarks.decode $(ARGS)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-scale: .venv/.dev
	@$(BIN)/python -m benchmarks.scale $(ARGS)

bench-export: .venv/.export
	@$(BIN)/python -m benchmarks.export $(ARGS)

export-matrix: .venv/.export
	@$(BIN)/python -m benchmarks.export.matrix $(ARGS)

deb: .venv/.deb
	@$(BIN)/python packaging/build.py $(ARGS)

# A later version comes along, to be upgraded to. Needs mmdebstrap and systemd-nspawn.
test-deb: .venv/.dev .venv/.deb
	@rm -rf build/try
	@$(BIN)/python packaging/build.py --arch amd64 --out build/try --version 0.1.0 --version 99.0.0
	@PYTHONPATH=. $(BIN)/python packaging/try_deb.py build/try $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

export: .venv/.export

clean:
	rm -rf .venv $(TWIN) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@echo "Making a virtual environment in .venv" >&2
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "expected python3 with its venv module (Debian: apt install python3-venv)" >&2; exit 1; }

# A stamp is older than pyproject.toml when what is installed may be out of date.
.venv/.demo: pyproject.toml | .venv/bin/python
	@echo "Installing imxfleet with its controller and simulated camera (a minute or two, once)" >&2
	@$(PIP) install --editable '.[controller,sim]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "Installing imxfleet with its tools for development (a minute or two, once)" >&2
	@$(PIP) install --editable '.[dev]'
	@touch .venv/.demo $@

.venv/.deb: pyproject.toml | .venv/bin/python
	@$(PIP) install --editable '.[deb]'
	@touch $@

$(TWIN)/.twin: pyproject.toml
	@echo "Installing imxfleet with modlib and picamera2 in $(TWIN) (a minute or two, once)" >&2
	@[ -x $(TWIN)/bin/python ] || $(PYTHON) -m venv $(TWIN)
	@$(TWIN)/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[twin]'
	@$(TWIN)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps $(PICAMERA2)
	@touch $@

.venv/.export: pyproject.toml | .venv/bin/python
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13) and \
	  "expected Python 3.11 or 3.12: there is no newer build of the converter. Then: make clean export PYTHON=python3.12")'
	@echo "Installing torch, then Ultralytics and Sony's tools (several gigabytes, once)" >&2
	@$(PIP) install $(TORCH)
	@$(PIP) install --editable '.[export,dev]'
	@touch .venv/.demo .venv/.dev $@
