#!/bin/bash
# One script on all GPUs of one node. From the project's folder, with the script and its flags:
#
#     sbatch jobs/slurm_one_node.sh run_qa.py --model xlm-roberta-base --bf16 --output_dir outputs/qa-xlmr
#
# Three minutes before its time is up the script saves a checkpoint, and the job goes back into the queue and continues
# there. SLURM requeues a preempted job, which continues from its last checkpoint. `scancel` ends it for good.

#SBATCH --job-name=finetune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
source .venv/bin/activate
processes="${SLURM_GPUS_ON_NODE:-1}"
cpus="${SLURM_CPUS_PER_TASK:-$processes}"
export SRUN_CPUS_PER_TASK="$cpus" # srun does not take it over from sbatch
export OMP_NUM_THREADS="$((cpus > processes ? cpus / processes : 1))"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 # seconds for the checkpoint before torchrun kills; without it 30

# Not by a signal to srun: it would kill the script at once instead of passing SIGTERM on.
ending=""
trap 'ending=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

srun torchrun --standalone --nproc_per_node "$processes" "$@" --resume_from_checkpoint auto &
step=$! status=0
wait "$step" || status=$?
if [ -n "$ending" ]; then
    status=0
    wait "$step" || status=$? # the first wait ended with the signal, not with the script
    [ "$status" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
