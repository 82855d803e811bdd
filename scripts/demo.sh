#!/usr/bin/env bash
# The main job on the embedded data, nothing downloaded but packages: pretrains POMP's and RPP's prompts on the embedded
# source, tests them there and on six other data sets beside zero-shot CLIP, tunes on the base classes of two of them from
# scratch and from what was pretrained, and ends with tables, the differences between the methods, and a picture.
# Three and a half minutes on two CPU cores after installation; started again, it goes on, or shows the tables.
# Results: output/demo, the picture: output/demo/figure.png.
# Arguments go to the sweep, for example fewer seeds:
#
#   bash scripts/demo.sh
#   bash scripts/demo.sh --seeds 1
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$PYTHON" -m tools.sweep configs/benchmarks/demo.yaml --workers 2 --out output/demo "$@"
"$PYTHON" -m tools.results output/demo --table xd base2new --plot bars --out output/demo/figure.png
echo "The picture of these tables: output/demo/figure.png"
