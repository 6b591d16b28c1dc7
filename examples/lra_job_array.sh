#!/bin/bash
# Long Range Arena as a SLURM job array: every task, mixer and seed is one job, which continues where it was stopped.
#
#   sbatch examples/lra_job_array.sh                            # all 108 runs
#   sbatch --array=3-5 examples/lra_job_array.sh                # some of them
#   SLURM_ARRAY_TASK_ID=0 bash examples/lra_job_array.sh        # one of them, without SLURM
#
# LRA_RUNS is the folder of the runs [runs], LRA_DATA that of the prepared data, PYTHON the interpreter [python];
# LRA_PAUSE, shorter than the time limit, stops at a checkpoint [11h]; LRA_OPTIONS are further overrides, such as
# "compile=true" or "task.source=/data/lra_release". Submit again until `python -m lra report` shows every run as finished.
#SBATCH --job-name=lra
#SBATCH --array=0-107
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%A_%a.out
set -euo pipefail

tasks=(listops text retrieval image pathfinder pathx)
mixers=(s4 s4d s5 sgconv mega attention)
seeds=(1 2 3)

number=${SLURM_ARRAY_TASK_ID:?submit this script with sbatch, or set SLURM_ARRAY_TASK_ID}
seed=${seeds[number % ${#seeds[@]}]}
mixer=${mixers[number / ${#seeds[@]} % ${#mixers[@]}]}
task=${tasks[number / ${#seeds[@]} / ${#mixers[@]}]:?"the array ends at $((${#tasks[@]} * ${#mixers[@]} * ${#seeds[@]} - 1))"}
run=${LRA_RUNS:-runs}/$task-$mixer-$seed
pause=(--pause "${LRA_PAUSE:-11h}")

if [ -f "$run/run.json" ]; then
    exec "${PYTHON:-python}" -m lra resume "$run" "${pause[@]}"
fi
# shellcheck disable=SC2086  # overrides are words
exec "${PYTHON:-python}" -m lra run "$task" "$mixer" "seed=$seed" ${LRA_OPTIONS:-} --out "$run" "${pause[@]}"
