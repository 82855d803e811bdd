#!/usr/bin/env bash
# The main job on the embedded data, nothing downloaded but packages: pretrains RPP's prompts on the embedded source,
# trains CoOp, MaPLe and RPP on the base classes of two targets, and ends with the table of base and new classes.
# One to three minutes on two CPU cores after installation; started again, it goes on, or shows the table.
# Results: output/demo.
# Arguments go to the sweep, for example another seed:
#
#   bash scripts/demo.sh
#   bash scripts/demo.sh --seeds 1,2,3
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m tools.sweep configs/benchmarks/demo.yaml --out output/demo "$@"
