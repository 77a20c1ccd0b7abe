PYTHON ?= python3
READY = .venv/.ready

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt torch==2.13.0
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

.PHONY: setup train test nightly lint bench
setup: $(READY)

train: $(READY)
	.venv/bin/zeropp train $(ARGS)

test: $(READY)
	.venv/bin/python -m pytest $(ARGS)

# property tests with 5,000 examples each, for a nightly run
nightly: $(READY)
	.venv/bin/python -m pytest --hypothesis-profile nightly --timeout 3600 \
	    tests/generate tests/simulate tests/verify

lint: $(READY)
	.venv/bin/ruff check src tests benchmarks scripts
	.venv/bin/ruff format --check src tests benchmarks scripts
	.venv/bin/mypy
	.venv/bin/mypy scripts/schedules_doc.py
	.venv/bin/lint-imports

bench: $(READY)
	for claim in schedules planner peers real memory; do .venv/bin/python benchmarks/$$claim.py $(ARGS) || exit 1; done
