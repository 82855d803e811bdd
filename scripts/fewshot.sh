#!/usr/bin/env bash
# Few-shot learning: train on a few images of every class, test on all classes.
#
#   bash scripts/fewshot.sh METHOD DATASET SHOTS SEED CFG [KEY VALUE ...] [--init PROMPTS] [--out DIR] [--dry-run]
#
# What is left out from the right: the first embedded data set, 16 shots, seed 1, the method's usual settings (a file of
# configs/trainers/METHOD). With DATA=/path the data sets in that folder are used, without it the embedded ones. What is
# done already is skipped, an interrupted run goes on; results go below output/. For example:
#
#   DATA=/data bash scripts/fewshot.sh CoOp dtd 4 1
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m tools.protocols fewshot "$@"
