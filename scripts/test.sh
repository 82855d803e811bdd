#!/usr/bin/env bash
# All tests, after a style check; makes .venv and installs what is needed first. Arguments go to pytest:
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/clip -k prompts
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export OMP_NUM_THREADS=1 # one thread a worker: the models are tiny
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --durations 10 "$@"
