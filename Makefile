# Everything runs in .venv, which the first target makes; Python 3.11 and make are all it needs.
PYTHON ?= python3.11
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow test-faults test-extras test-zoo lint docs tables release clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/pliant demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

test-faults: .venv/installed
	$(BIN)/python tests/faults/kill.py --kills 100
	$(BIN)/python tests/faults/lost.py --kills 10
	$(BIN)/python -m pytest -m slow tests/test_cli_random.py
	$(BIN)/python -m pytest -v -n auto tests/test_cli_faults.py tests/run tests/test_cli.py tests/data \
		-k "disk or damage or truncat or flip or newer or killed or clock or written or pickle or unreadable"

# timm runs on any torch; what it declares would bring a torchvision that fits another build of torch than a CPU's.
.venv-extras/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[dev,ray,tensorboard,wandb,mlflow,sb3,atari,minatar,dmc,lightning,transformers,zoo]'
	.venv-extras/bin/python -m pip install --quiet --no-deps 'timm>=1.0'
	touch $@

test-extras: .venv-extras/installed
	.venv-extras/bin/python -m pytest tests/extras -n 2 --dist loadgroup

test-zoo: .venv-extras/installed
	.venv-extras/bin/python -m pytest tests/extras/zoo -m slow -n 2 --dist loadgroup

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# What commands print: the tables of docs/diagnostics.md and docs/interventions.md, and the ledger docs/claims.md.
tables: .venv/installed
	$(BIN)/python docs/tables.py
	$(BIN)/pliant ledger --out results

# It sees what .venv has, torch above all, and holds the rest: 0.4 GB instead of 1.4.
.venv-docs/installed: .venv/installed
	$(PYTHON) -m venv .venv-docs
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
		> "$$(.venv-docs/bin/python -c 'import site; print(site.getsitepackages()[0])')/venv.pth"
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs,transformers,tensorboard]'
	touch $@

# The site, docs/_build/index.html: the tables first, then every page and notebook; a warning is an error.
docs: tables .venv-docs/installed
	PATH="$(CURDIR)/.venv-docs/bin:$$PATH" .venv-docs/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build

# Wheel and sdist in dist/, each tried in an empty environment: a Python and a torch, the lowest and the newest among them.
TRIED ?= python3.11:2.13.0 python3.12:2.11.0 python3.13:2.14.1

.venv-release/installed: pyproject.toml
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet 'build>=1.2'
	touch $@

release: .venv-release/installed
	.venv-release/bin/python .ci/release.py $(TRIED)

clean:
	rm -rf .venv .venv-extras .venv-docs .venv-release dist docs/_build docs/generated docs/jupyter_execute .pytest_cache .ruff_cache .hypothesis
