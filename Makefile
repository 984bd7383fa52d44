# `make lab` and `make test` set everything up by themselves; `make help` lists the rest.
#
# PYTHON=python3.12     the Python to make .venv with (3.11 or newer)
# WHEELHOUSE=folder     set up without a network, from a folder that `make wheelhouse` filled
# NO_BROWSER=1          start JupyterLab without opening a browser
# LAB_OPTIONS=...       more options for JupyterLab, as --ServerApp.port=9999
# PYTEST_OPTIONS=...    more options for pytest, as -x
# SITE=folder           where `make site` writes (site/)
# REPOSITORY=owner/name on GitHub: `make site` then links to Colab, Binder and Codespaces
# WORKSHOP=folder       where `make workshop` writes (workshop/)
# REQUIRE_BROWSER=1     browser tests that cannot run count as failed

PYTHON ?= python3
WHEELHOUSE ?=
NO_BROWSER ?=
LAB_OPTIONS ?=
PYTEST_OPTIONS ?=
NAME ?=
WORKSHOP ?= workshop
SITE ?= site
REPOSITORY ?=

PY := .venv/bin/python
STAMP := .venv/.installed
EXTRAS := .[test,export]
NOTEBOOKS := $(wildcard notebooks)

ifneq ($(WHEELHOUSE),)
OFFLINE := --no-index --find-links "$(WHEELHOUSE)"
export TINYBERT_LITE_WHEELHOUSE := $(WHEELHOUSE)
endif

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-fast test-long lint wheelhouse workshop site checkpoints clean

help:
	@echo 'make lab         set up, fetch and check everything, open JupyterLab on the first notebook'
	@echo 'make test        set up, then every test'
	@echo 'make test-fast   the tests of units and of parity, in under three minutes'
	@echo 'make test-long   the tests that take more than a few minutes'
	@echo 'make setup       only make .venv and install into it'
	@echo 'make lint        ruff, import-linter (the layers of the package) and mypy'
	@echo 'make wheelhouse  fill WHEELHOUSE (or wheelhouse/) for a place without a network'
	@echo 'make workshop    notebooks for learners and instructors, HTML pages, slides, handout, into WORKSHOP (or workshop/)'
	@echo 'make site        the live page and the course as pages into SITE (or site/); needs npm'
	@echo 'make checkpoints train the shipped checkpoints again (NAME=reviews-lite: one of them)'
	@echo 'make clean       remove .venv and what tests and builds left; data/cache and runs stay'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo 'No $(PYTHON) here: install Python 3.11 or newer, or say which: make PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1): Python 3.11 or newer is needed, say where: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module: install it (on Debian and Ubuntu the package python3-venv)' >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	$(PY) -m pip install --disable-pip-version-check $(OFFLINE) -c constraints.txt -e '$(EXTRAS)'
	@touch $@

# As root (containers, CI) Jupyter wants a word more; loopback and the token stay.
lab: setup
	$(PY) -m tinybert_lite fetch
	$(PY) -m tinybert_lite check
	JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks/jupyter" \
	$(PY) -m jupyterlab --ip=127.0.0.1 $(if $(NO_BROWSER),--no-browser) \
	  $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. \
	  --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_OPTIONS)

# One pytest run, so that its summary, with what was skipped and why, is the last thing on screen.
# Two processes of one thread each are done in 21 minutes where one of two threads takes 33; each
# keeps a notebook, and a module of tests, to itself. PYTEST_OPTIONS=-n0 runs them one by one.
test: lint
	$(PY) -m tinybert_lite fetch
	OMP_NUM_THREADS=1 $(PY) -m pytest -m 'not long' -ra --durations=25 -n 2 --dist loadscope \
	  $(PYTEST_OPTIONS) tests \
	  $(if $(NOTEBOOKS),--nbval-lax --nbval-current-env $(NOTEBOOKS))

# What to run while you work: no notebooks, browsers, processes that are killed, or whole runs.
test-fast: setup
	$(PY) -m tinybert_lite fetch
	OMP_NUM_THREADS=1 $(PY) -m pytest -m 'not long and not slow and not browser' -ra -n 2 \
	  --dist loadscope $(PYTEST_OPTIONS) tests

test-long: setup
	$(PY) -m tinybert_lite fetch
	$(PY) -m pytest -m long -ra $(PYTEST_OPTIONS) tests

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports --no-logo
	$(PY) -m mypy

# The asset archives are named in tinybert_lite/data/manifest.json and checked while they are saved.
wheelhouse: override FOLDER := $(if $(WHEELHOUSE),$(WHEELHOUSE),wheelhouse)
wheelhouse: override OFFLINE :=
wheelhouse: setup
	$(PY) -m pip download --disable-pip-version-check -c constraints.txt --dest "$(FOLDER)" \
	  '$(EXTRAS)' pip 'setuptools>=77' wheel
	env -u TINYBERT_LITE_WHEELHOUSE $(PY) -c \
	  'import sys; from tinybert_lite.data import assets; assets.save_archives(sys.argv[1])' "$(FOLDER)"
	@rm -f "$(FOLDER)"/tinybert_lite-*
	@echo 'Take $(FOLDER) along, then: make lab WHEELHOUSE=$(FOLDER)'

workshop: setup
	$(PY) notebooks/workshop.py "$(WORKSHOP)"
	$(PY) notebooks/slides.py "$(WORKSHOP)"

site: setup
	@command -v npm >/dev/null || { \
	  echo 'npm is not installed, and `make site` needs it: install Node.js 20 or newer' >&2; exit 1; }
	$(PY) -m tinybert_lite fetch
	$(PY) -m tinybert_lite.explorer.site "$(SITE)"
	$(PY) notebooks/course_site.py "$(SITE)" $(if $(REPOSITORY),--repository "$(REPOSITORY)")

checkpoints: setup
	$(PY) -m tinybert_lite fetch
	$(PY) data/checkpoints/rebuild.py $(NAME)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find tinybert_lite tests -name __pycache__ -type d -prune -exec rm -rf {} +
