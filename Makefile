# The verbs of this project; CI runs `make check test slow`. Each makes .venv first when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo demo-pictures demo-speech serve check test slow clients bench kill-matrix gpu
setup: .venv/ready

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,examples,export,otel,mlflow]'
	touch .venv/ready

demo: setup
	$(BIN)/python -m examples.demo

demo-pictures: setup
	$(BIN)/python -m examples.demo pictures

demo-speech: setup
	$(BIN)/python -m examples.demo speech

serve: setup
	$(BIN)/moatelier serve

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/pytest -n 2

slow: setup clients
	$(BIN)/pytest -m slow

# The clients that the JavaScript examples use; without npm their tests are skipped.
clients:
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix examples/clients; fi

gpu: setup
	$(BIN)/pytest -m gpu

kill-matrix: setup
	$(BIN)/python -m tests.e2e.kill_matrix

bench: setup
	$(BIN)/python -m benchmarks.text
