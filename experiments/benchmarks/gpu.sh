#!/bin/sh
# All measurements on a GPU; needs torch, numpy and this repository (pillow for an image folder, pytest for `tests`).
#
#     sh experiments/benchmarks/gpu.sh roofline epoch search time_to tests --data cifar-10-python.tar.gz
#
# Stages run in the order in which they are named, each in a process of its own, and leave a JSON file each in
# ${OUT:-experiments/results/gpu}, from its first row on. They share --minutes 9 equally, and what one leaves the others have;
# no row is begun that would end later, were it as slow as the stage's slowest so far. By arithmetic roofline wants some 9
# minutes for each method, an epoch's row one, a row of search or time_to one to three, of the goal aa49 ten.
# With little time, time_to goes first: it takes what the search found, or else its own first choice.
# `--help` has the rest; `--device cpu --images 256 --width 4 ...` tries a stage out.
set -eu
cd "$(dirname "$0")/../.."
export TORCHINDUCTOR_FORCE_DISABLE_CACHES=1  # or graphs that another method or goal has compiled would take no time
export PYTHONPATH="$PWD/platform:$PWD/experiments${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" experiments/benchmarks/gpu.py --out "${OUT:-experiments/results/gpu}" "$@"
