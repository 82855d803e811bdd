#!/usr/bin/env bash
# Base-to-new generalization: train on the first half of the classes, test on both halves.
#
#   bash scripts/base2new.sh METHOD DATASET SEED CFG [KEY VALUE ...] [--init PROMPTS] [--out DIR] [--dry-run]
#
# What is left out from the right: the first embedded data set, 16 shots, seed 1, the method's usual settings (a file of
# configs/trainers/METHOD). With DATA=/path the data sets in that folder are used, without it the embedded ones. What is
# done already is skipped, an interrupted run goes on; results go below output/. For example:
#
#   DATA=/data bash scripts/base2new.sh MaPLe dtd 1
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m tools.protocols base2new "$@"
