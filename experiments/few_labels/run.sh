#!/usr/bin/env bash
# The whole study: 8 strategies, 4 numbers of labels, 5 seeds. What is finished is skipped, so it goes on where it stopped.
set -euo pipefail
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=full,layer_decay
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=linear_probe optimizer.lr=1e-2
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=bitfit optimizer.lr=2e-3
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=lora optimizer.lr=2e-3
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=gradual
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=lp_ft strategy.probe_epochs=6 strategy.probe_lr=1e-2
python -m tl_lightning --multirun +experiment=few_labels resume=auto logger=csv data.shots=16,64,256,1024 seed=0,1,2,3,4 strategy=l2_sp
python -m tl_lightning compare outputs/multirun/few_labels by=strategy,data.shots metric=accuracy output=outputs/few_labels
for labels in 16 64 256 1024; do  # and each number of labels by itself: fewer comparisons to correct for
  python -m tl_lightning compare outputs/multirun/few_labels data.shots=$labels by=strategy metric=accuracy output=outputs/few_labels/$labels
done
