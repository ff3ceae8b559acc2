#!/bin/sh
# All measurements on a GPU; needs torch, numpy and this repository (pillow for an image folder, pytest for `tests`).
#
#     sh experiments/benchmarks/gpu.sh roofline epoch search time_to tests --data cifar-10-python.tar.gz
#
# Stages run in the order in which they are named, each in a process of its own, and leave a JSON file each in
# ${OUT:-experiments/results/gpu}, from its first row on. Nothing is begun that may end after --minutes 9, of all of them.
# With little time, time_to goes first: it takes what the search found, or else its own first choice.
# `--help` has the rest; `--device cpu --images 256 --width 4 ...` tries a stage out.
set -eu
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD/platform:$PWD/experiments${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" experiments/benchmarks/gpu.py --out "${OUT:-experiments/results/gpu}" "$@"
