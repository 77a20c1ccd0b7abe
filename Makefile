PYTHON ?= python3
READY = .venv/.ready
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) / 2 + 1)
BENCHMARKS = schedules paper planner overhead split meeting resident prediction adaptation soak peers real memory cluster saving kills

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt torch==2.13.0
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

.PHONY: setup train test test-torchtitan test-release test-manifest site nightly lint bench
setup: $(READY)

train: $(READY)
	.venv/bin/zeropp train $(ARGS)

# several at once, most of which start two or four processes; a file is one worker's
test: $(READY)
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# torchtitan's own Trainer, in .venv-torchtitan with the torch that it needs; takes 6 GB
test-torchtitan:
	scripts/test-torchtitan

# wheel and sdist, installed in an empty environment
test-release: $(READY)
	scripts/test-release

# the manifest for Kubernetes against Kubeflow's own models, which are downloaded
test-manifest:
	scripts/test-manifest

# the pages of docs/ as a site, in build/site
site: $(READY)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

# property tests with 5,000 examples each, 500 random odd models, every type of decoder, a run killed
# twenty times, and a real model, which is downloaded
nightly: $(READY)
	KILLS=20 .venv/bin/python -m pytest tests/cli/test_kills.py
	.venv/bin/python -m pytest -m nightly
	HF_TYPES=all .venv/bin/python -m pytest --timeout 3600 tests/hf/test_every_decoder.py
	.venv/bin/python -m pytest -m real tests/cli/test_train_decoder.py
	FUZZ_RUNS=500 .venv/bin/python -m pytest --timeout 3600 tests/runtime/test_fuzz.py
	.venv/bin/python -m pytest --hypothesis-profile nightly --timeout 3600 \
	    tests/generate tests/simulate tests/program

lint: $(READY)
	.venv/bin/ruff check src tests benchmarks scripts examples
	.venv/bin/ruff format --check src tests benchmarks scripts examples
	.venv/bin/mypy
	MYPYPATH=src:benchmarks:tests .venv/bin/mypy --follow-imports=silent --ignore-missing-imports \
	    scripts/docs.py scripts/measured.py scripts/simulated.py
	MYPYPATH=src .venv/bin/mypy --follow-imports=silent --allow-untyped-calls examples/*.py
	.venv/bin/lint-imports

# each with its result in build/bench, then docs/performance.md; takes an hour and a half
bench: $(READY)
	mkdir -p build/bench
	@failed=; for name in $(BENCHMARKS); do \
	    echo "benchmarks/$$name.py"; rm -f build/bench/$$name.json; \
	    .venv/bin/python benchmarks/$$name.py --json > build/bench/$$name.part; \
	    if [ -s build/bench/$$name.part ]; \
	    then mv build/bench/$$name.part build/bench/$$name.json; \
	    else failed="$$failed $$name"; fi; \
	done; \
	.venv/bin/python scripts/docs.py --results build/bench || exit 1; \
	[ -z "$$failed" ] || { echo "no result of:$$failed" >&2; exit 1; }
