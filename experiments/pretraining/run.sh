#!/usr/bin/env bash
# Pretrained beside from scratch, over the number of labels: phrases and digits. What is finished is skipped, also what
# the studies few_labels and digits_transfer have run already.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=full,layer_decay
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv name=few_labels_scratch backbone.pretrained=false optimizer.lr=1e-3 data.shots=16,64,256,1024 seed=0,1,2,3,4
python -m tl_lightning --multirun +experiment=digits_pretrain resume=auto logger=csv seed=0,1,2,3,4
python -m tl_lightning --multirun +experiment=digits_transfer resume=auto logger=csv data.shots=1,3,10,30 seed=0,1,2,3,4
python -m tl_lightning --multirun +experiment=digits_transfer resume=auto logger=csv name=digits_scratch backbone.weights=null data.shots=1,3,10,30 seed=0,1,2,3,4
python -m tl_lightning compare outputs/multirun/few_labels outputs/multirun/few_labels_scratch strategy=full metric=accuracy by=name,data.shots output=outputs/pretraining/text
python -m tl_lightning compare outputs/multirun/digits_transfer outputs/multirun/digits_scratch metric=accuracy by=name,data.shots output=outputs/pretraining/digits
for labels in 16 64 256 1024; do  # and each number of labels by itself: one comparison, nothing to correct for
  python -m tl_lightning compare outputs/multirun/few_labels outputs/multirun/few_labels_scratch strategy=full data.shots=$labels metric=accuracy by=name output=outputs/pretraining/text/$labels
done
for labels in 1 3 10 30; do
  python -m tl_lightning compare outputs/multirun/digits_transfer outputs/multirun/digits_scratch data.shots=$labels metric=accuracy by=name output=outputs/pretraining/digits/$labels
done
