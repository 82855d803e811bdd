#!/usr/bin/env bash
# Pretraining: train on ImageNet-21K (or the embedded source), test on it and on all data sets of xd and dg.
#
#   bash scripts/pretrain.sh METHOD SEED CFG [KEY VALUE ...] [--init PROMPTS] [--out DIR] [--dry-run]
#
# What is left out from the right: seed 1, the method's usual settings (a file of configs/trainers/METHOD). Shots: 16,
# or 8 on the embedded source (DATASET.NUM_SHOTS). With DATA=/path the data sets in that folder are used, without it the
# embedded ones. What is done already is skipped, an interrupted run goes on; results go below output/. For example:
#
#   DATA=/data bash scripts/pretrain.sh RPP 1
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" -m tools.protocols pretrain "$@"
