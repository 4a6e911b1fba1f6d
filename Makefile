# Every target needs only make and Python 3.11, 3.12 or 3.13. The first target that runs installs everything into .venv.
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13; do \
  $$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && exit; done; echo python3)
PROFILE ?= laptop
TIER ?= core
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready

# Use the kernel in .venv, even if the user has installed others.
unexport JUPYTER_PATH PYTHONPATH PYTHONHOME
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONNOUSERSITE := 1
# Threads that wait by spinning make training five times slower as soon as other programs use the same cores.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help venv tutorial site bundle gallery test lint format lab bench evidence compare sweep sync relion copick clean

help:
	@echo "make tutorial   run notebooks 00 to 07, then open runs/$(PROFILE)/index.html   (PROFILE=smoke|laptop|gpu|paper)"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make site       write the executed notebooks, the pages and the API into site/, to read without a network"
	@echo "make bundle     write one archive for a workshop without a network: wheels, notebooks as run, data, fits, site"
	@echo "make gallery    renew docs/gallery.md, small figures of the notebooks, from a finished make tutorial"
	@echo "make test       check the style, run the unit tests, and run every notebook at the smoke profile"
	@echo "make lint       check style, types and import contracts only"
	@echo "make format     format the code, and bring the .py and .ipynb of each notebook together"
	@echo "make sync       only bring the .py and .ipynb of each notebook together"
	@echo "make bench      measure speed, memory and growth of simulation, training, extraction and prediction"
	@echo "make compare    train and score methods, JOBS=2 at a time, into runs/compare/compare.csv"
	@echo "                (METHODS='source_only cryoshift' SCENARIOS=in_situ_1 SEEDS='0 1 2' GRID='weights.mada=0.3,1,3')"
	@echo "make sweep      run SWEEP=notebooks/sweeps/methods.yaml through Snakemake, JOBS=2 at a time; goes on after a kill"
	@echo "make evidence   train and score methods into notebooks/evidence, JOBS=2 at a time"
	@echo "                (TIER=core|real|baselines|factors|mixes|ablation|unseen|rotation|foreign|controls|source|curves)"
	@echo "make venv       only install everything into .venv"
	@echo "make relion     install RELION's programs (Debian package), to test that they read what we write"
	@echo "make copick     install copick into .venv-copick, for the same"
	@echo "make clean      delete .venv and caches; results in runs/ stay"

venv: $(READY)

# An interrupted installation leaves no .ready, so the next call continues it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c '$(SUITABLE)' 2>/dev/null || { \
	  echo "Cryo-Shift needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is `$(PYTHON) -V 2>&1`;" \
	    "install one and pass its path: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "$(PYTHON) could not create a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --only-binary :all: -c constraints.txt -e '.[test,formats,lab,site]'
	@touch $@

tutorial: $(READY)
	@$(BIN)/python -m cryoshift_core tutorial --profile $(PROFILE)

site: $(READY)
	@$(BIN)/python -m cryoshift_core site --profile $(PROFILE)

bundle: $(READY)
	@$(BIN)/python -m cryoshift_core bundle --profile $(PROFILE)

gallery: $(READY)
	@$(BIN)/python -m cryoshift_core.course.gallery --profile $(PROFILE)

# One thread per worker: two workers use two cores fully.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --durations 10 --cov --cov-report=
	@$(BIN)/python tests/coverage_report.py

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(MAKE) --no-print-directory sync

# JupyterLab opens at the first notebook. The file browser does not list the .py twins of the notebooks; other .py files stay.
HIDDEN := __pycache__ *.pyc *~ .DS_Store [0-9][0-9]*_*.py
lab: $(READY)
	@$(BIN)/python -m jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
	  $(foreach glob,$(HIDDEN),'--ContentsManager.hide_globs=$(glob)') $(LAB)

bench: $(READY)
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_learning.py
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_extraction.py
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_scaling.py

METHODS ?= source_only cryoshift
SCENARIOS ?= in_situ_1
SEEDS ?= 0 1 2
GRID ?=
compare: $(READY)
	@$(BIN)/python -m cryoshift_core compare --methods $(METHODS) --scenarios $(SCENARIOS) --seeds $(SEEDS) --profile $(PROFILE) \
	  --jobs $(JOBS) $(if $(GRID),--grid $(GRID))

SWEEP ?= notebooks/sweeps/methods.yaml
sweep: $(READY)
	@test -x $(BIN)/snakemake || $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[benchmark]'
	@OMP_NUM_THREADS=1 $(BIN)/snakemake --profile cryoshift_core/course/workflow/local --cores $(JOBS) --config sweep=$(SWEEP)

# One thread per process; all processes write to one CSV. After an interruption, the same command continues.
evidence: $(READY)
	@for i in $$(seq 0 $$(($(JOBS) - 1))); do \
	  OMP_NUM_THREADS=1 $(BIN)/python -m cryoshift_core evidence --tier $(TIER) --profile $(PROFILE) --part $$i/$(JOBS) & \
	  started="$$started $$!"; done; failed=0; for one in $$started; do wait $$one || failed=1; done; \
	$(BIN)/python -m cryoshift_core evidence --profile $(PROFILE) --report && exit $$failed

sync: $(READY)
	@$(BIN)/jupytext --sync notebooks/*.py

# Programs of others that tests hand our files to. The tests are skipped where they are missing.
relion:
	@command -v relion_star_handler || { command -v apt-get > /dev/null && test "$$(id -u)" = 0 && \
	  apt-get update && apt-get install -y --no-install-recommends relion; } || { \
	  echo "RELION is not installed, and cannot be from here. On Debian or Ubuntu: sudo apt install relion;" \
	    "elsewhere put relion_star_handler and relion_image_handler, version 3.1, on the PATH." >&2; exit 1; }

# copick needs numcodecs < 0.16 and so an environment of its own.
copick: .venv-copick/.ready

.venv-copick/.ready:
	@$(PYTHON) -m venv .venv-copick
	@.venv-copick/bin/python -m pip install --disable-pip-version-check copick==1.31.0
	@touch $@

clean:
	rm -rf .venv .venv-copick .pytest_cache .ruff_cache *.egg-info
