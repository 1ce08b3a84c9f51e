#!/usr/bin/env bash
# The whole study, offline: pretrain on the digits 0 to 4, then learn 5 to 9 from few of each. What is finished is skipped.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # the network is too small to share between cores
python -m tl_lightning --multirun +experiment=digits_pretrain resume=auto logger=csv seed=0,1,2,3,4
python -m tl_lightning --multirun +experiment=digits_transfer resume=auto logger=csv data.shots=1,3,10,30 seed=0,1,2,3,4
python -m tl_lightning --multirun +experiment=digits_transfer resume=auto logger=csv name=digits_probe strategy=linear_probe optimizer.lr=1e-2 data.shots=1,3,10,30 seed=0,1,2,3,4
python -m tl_lightning --multirun +experiment=digits_transfer resume=auto logger=csv name=digits_scratch backbone.weights=null data.shots=1,3,10,30 seed=0,1,2,3,4
python -m tl_lightning compare outputs/multirun/digits_transfer outputs/multirun/digits_probe outputs/multirun/digits_scratch by=name,data.shots metric=accuracy output=outputs/digits_transfer
for shots in 1 3 10 30; do  # and each number of shots by itself: three comparisons to correct for, not sixty-six
  python -m tl_lightning compare outputs/multirun/digits_transfer outputs/multirun/digits_probe outputs/multirun/digits_scratch data.shots=$shots by=name metric=accuracy output=outputs/digits_transfer/$shots
done
