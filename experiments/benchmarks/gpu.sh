#!/bin/sh
# All measurements on a GPU; needs torch, numpy and this repository (pillow for an image folder, pytest for `tests`).
#
#     sh experiments/benchmarks/gpu.sh roofline epoch search time_to tests --data cifar-10-python.tar.gz
#
# Each stage leaves a JSON file in ${OUT:-experiments/results/gpu}, from its first row on, and begins nothing new after
# --minutes 9. `--help` has the rest; `--device cpu --images 256 --width 4 ...` tries a stage out.
set -eu
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD/platform:$PWD/experiments${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" experiments/benchmarks/gpu.py --out "${OUT:-experiments/results/gpu}" "$@"
