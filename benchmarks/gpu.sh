#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes, as one table.
#
#   bash benchmarks/gpu.sh [out=gpu.md]        # on a GPU
#   bash benchmarks/gpu.sh dry [out=gpu.md]    # on a CPU, at the toybox's size: does it run?
set -uo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
python=${PYTHON:-.venv/bin/python}
dry=false out=gpu.md
for word in "$@"; do
    case $word in
        dry) dry=true ;;
        out=*) out=${word#out=} ;;
        *) echo "gpu.sh takes dry and out=FILE, got $word" >&2; exit 2 ;;
    esac
done

if $dry; then
    tested="not run: dry"
    settings=(size=toybox precision=fp32 frames=2 latents=8,16 most=2 rounds=1 steps=2 compile=eager)
else
    echo "pytest -m gpu (at most 170 s)"
    if tested=$(timeout 170 "$python" -m pytest -q -m gpu tests/gpu 2>&1 | tail -n 1); then :; else
        tested="FAILED or out of time: $tested"
    fi
    settings=(size=sd15 precision=bf16 frames=16 latents=32,64 most=32 rounds=5 steps=25 compile=inductor)
fi
left=$((460 - (SECONDS - began)))
exec "$python" benchmarks/gpu.py "${settings[@]}" "seconds=$left" "tested=$tested" "out=$out"
