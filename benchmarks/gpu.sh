#!/usr/bin/env bash
# What a GPU makes of it, in under 10 minutes: populations of 64, equality with the CPU, Atari's updates and decisions.
#   benchmarks/gpu.sh [--device cpu]      PYTHON=... is the interpreter to take
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
