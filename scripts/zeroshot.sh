#!/usr/bin/env bash
# Zero-shot CLIP (METHOD: ZeroshotCLIP, or ZeroshotCLIP2 for several templates); CFG: a file of configs/trainers/CoOp.
#
#   bash scripts/zeroshot.sh METHOD DATASET CFG [KEY VALUE ...] [--out DIR] [--dry-run]
#
# What is left out from the right: the first embedded data set, and vit_b16 (tiny on embedded data). With DATA=/path the
# data sets in that folder are used, without it the embedded ones. What is done already is skipped; results go below
# output/. For example:
#
#   DATA=/data bash scripts/zeroshot.sh ZeroshotCLIP dtd vit_b16
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m tools.protocols zeroshot "$@"
