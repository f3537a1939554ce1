#!/bin/bash
# The rows of a published table, a GPU each: row N is task N of an array. When all are done, make the table:
#
#     sbatch --array=1-3 jobs/slurm_table.sh mnli
#     python -m benchmarks.published mnli --report_only
#
# `python -m benchmarks.published mnli --dry_run` prints the rows; further flags go behind the table's name everywhere.
# A row whose time is up has saved a checkpoint: the same sbatch, with its number as --array, continues from it.

#SBATCH --job-name=table
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log

set -euo pipefail
source .venv/bin/activate
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

row="$(python -m benchmarks.published "$@" --dry_run | sed '/^#/d' | sed -n "${SLURM_ARRAY_TASK_ID}p")"
if [ -z "$row" ]; then
    echo "the table has no row $SLURM_ARRAY_TASK_ID" >&2
    exit 2
fi
echo "$row"
eval "exec $row" # in place of this shell, so that SLURM's signal reaches the script
