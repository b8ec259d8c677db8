# Few targets; CI calls the same ones. Each makes .venv by itself where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-browser test-slow check report gpu-check clean

# Install once; again when the dependencies change. The constraints pin versions, never addresses.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gan-bench needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/bench run --results demo/results
	$(BIN)/bench report --results demo/results --out demo/reports

# Two workers, one file at a time each: a test's own subprocesses and ratios stay on one core.
test: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile

# The report in headless Chromium; installs Playwright and, where none is found, Chromium.
test-browser: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		$(BIN)/playwright install --with-deps chromium
	$(BIN)/pytest -q -m browser tests/test_page_browser.py

test-slow: $(READY)
	$(BIN)/pytest -q -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

report: $(READY)
	$(BIN)/bench report

gpu-check: $(READY)
	$(BIN)/pytest -q -m gpu

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis reports/* demo
