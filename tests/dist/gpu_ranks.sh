#!/usr/bin/env bash
# Data-parallel training on N ranks of this machine, one GPU each, after the build: called by tests/gpu --ranks N.
# Correctness first, then all-reduce bandwidth and, on 1, 2, 4, ... N ranks, the throughput of a distillation with a
# random teacher of 200 M parameters and the step of the full-size model. Every step has a time limit of its own and stops no other; the table comes last.
# usage: gpu_ranks.sh RANKS BUILD LOGS [cuda|cpu]; cpu runs the same way over MPI with small sizes, to try this script.
set -uo pipefail
ranks=$1
build=$(realpath "$2")
logs=$(realpath "$3")
device=${4:-cuda}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
mpiexec=$(sed -n 's/^MPIEXEC_EXECUTABLE:FILEPATH=//p' "$build/CMakeCache.txt")
matvlm=$build/matvlm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Sizes: the 200 M model, or one that two cores run in seconds.
if [[ $device == cuda ]]; then
  precision=bf16 samples=256 image=224 patch=16 batch=32 updates=80 every=20 threads=6
  text='hidden: 1024, layers: 12, heads: 16, kv_heads: 16, mlp: 4096'
  vision='width: 768, layers: 6, heads: 12, mlp: 3072'
  full=(--config configs/bench-full.yaml --shapes 4x1024)
else
  precision=f32 samples=64 image=32 patch=16 batch=4 updates=8 every=2 threads=1
  text='hidden: 64, layers: 4, heads: 4, kv_heads: 4, mlp: 128'
  vision='width: 32, layers: 2, heads: 2, mlp: 64'
  full=(--config tests/bench/sweep-test.yaml --set student.ssm_fraction=0.5 --shapes 2x40 --updates 3)
fi

status=0
table=()
note() { table+=("$(printf '%-13s %s' "$1" "$2")"); }

# step NAME SECONDS LOG COMMAND...: runs the command under its limit, appends its output to LOG and its result to the
# table: the lines that begin with one of the programs' own words, or the first error.
step() {
  local name=$1 limit=$2 log=$logs/$3 begun=$SECONDS code=0 out=$work/out line
  shift 3
  timeout -k 10 "$limit" "$@" >"$out" 2>&1 </dev/null || code=$?
  { echo "== $*"; cat "$out"; echo "== exit code $code"; } >>"$log"
  local took=$((SECONDS - begun))
  while IFS= read -r line; do note "$name" "$line"; done < <(grep -E '^(ok|all-reduce|gradients|two runs:|killed rank:|other ranks:)' "$out" | cut -c1-200)
  if ((code == 0)); then
    note "$name" "passed in $took s"
  else
    status=1
    note "$name" "FAILED: exit code $code after $took s (124, 137: over the limit of $limit s)"
    line=$(grep -m 1 -E ' error \[|error:|kill_rank:|^failed' "$out" | cut -c1-300)
    [[ -n $line ]] && note "$name" "  $line"
  fi
  return "$code"
}

# Data and the random teacher of the throughput runs; needs no GPU, so it runs beside the first steps, in a shell of its
# own for the sake of its time limit.
# shellcheck disable=SC2317
prepare() {
  cd "$work" || return 1
  mkdir start
  cat >start/config.yaml <<YAML || return 1
run: {dir: start, seed: 1}
teach:
  tokenizer: tokenizer.json
  model: {$text, vision: {$vision, image_size: $image, patch: $patch}}
schedule: {kind: constant, warmup: 0, total: 1}
data: {train: train.h5, max_length: 512}
YAML
  cat >distill.yaml <<YAML || return 1
run: {dir: run, seed: 1}
device: $device
precision: $precision
teacher: {path: teacher}
student: {ssm_fraction: 0.5}
schedule: {kind: constant, warmup: 0, total: 1}
data: {train: train.h5, max_length: 512, threads: $threads, prefetch: 8, cache_mib: 2048}
batch: {size: $batch, micro: $batch}
train: {log_every: $every, checkpoint_every: 1000000}
YAML
  local tokens=$(((image / patch) * (image / patch)))
  "$matvlm" data synthetic --out data --samples "$samples" --image-size "$image" &&
    "$matvlm" data tokenizer --data data/train.json --out tokenizer.json --vocab 2048 &&
    "$matvlm" data pack --data data/train.json --images data/images --tokenizer tokenizer.json --out train.h5 \
      --max-length 512 --tokens-per-image "$tokens" &&
    "$matvlm" export start --checkpoint start --out teacher --precision "$([[ $precision == bf16 ]] && echo bf16 || echo f32)"
}

# Of the line before the last in a run's metrics: the updates after the start and before the end.
number() { tail -n 2 "$work/run-$1/metrics.jsonl" | head -n 1 | sed -nE "s/.*\"$2\": *(-?[0-9.eE+-]+).*/\1/p"; }

# shellcheck disable=SC2317
throughput() { # RANKS
  cd "$work" || return 1
  exec "$mpiexec" -n "$1" "$matvlm" distill distill.yaml --set "run.dir=run-$1" --set "batch.size=$((batch * $1))" \
    --set "schedule.total=$((batch * $1 * updates))"
}
export -f throughput
export work mpiexec matvlm batch updates

started=$SECONDS
timeout -k 5 100 bash -c "$(declare -f prepare); $(declare -p work matvlm text vision image patch device precision batch every threads samples); prepare" >"$work/prepare.out" 2>&1 </dev/null &
preparing=$!

step communicator 60 communicator.log "$mpiexec" -n "$ranks" "$build/tests/comm_mpi_main" check . "$device"
step "abort, kill" 90 kill.log "$here/kill_rank.sh" "$mpiexec" "$build/tests/comm_mpi_main" "$device" "$ranks"
step "N equals 1" 60 updates.log "$mpiexec" -n "$ranks" "$build/tests/ranks_mpi_main" "$device"
step program 150 program.log "$build/tests/ranks_program_main" "$device" "$ranks"

# 1, 2, 4, ... and N itself.
numbers=()
for ((n = 1; n < ranks; n *= 2)); do numbers+=("$n"); done
numbers+=("$ranks")
gradients=0
if wait "$preparing"; then
  for n in "${numbers[@]}"; do
    step "distill on $n" 60 scaling.log bash -c "throughput $n" || continue
    cat "$work/run-$n/metrics.jsonl" >>"$logs/scaling.log"
    gradients=$(grep -ohE '[0-9]+ of them trained' "$work/out" | head -n 1 | grep -oE '^[0-9]+')
  done
else
  status=1
  note scaling "FAILED: the data and the teacher could not be made: $(tail -n 1 "$work/prepare.out" | cut -c1-200)"
fi
cat "$work/prepare.out" >>"$logs/scaling.log"
for n in "${numbers[@]}"; do
  step "full size on $n" 90 full-size.log "$mpiexec" -n "$n" "$matvlm" bench step "${full[@]}" --json "$work/full-$n.json"
done
step all-reduce 60 allreduce.log "$mpiexec" -n "$ranks" "$build/tests/bench_allreduce" "$device" "${gradients:-0}"
sum_ms=$(sed -nE 's/^gradients .*: ([0-9.]+) ms.*/\1/p' "$work/out")

echo "== tests/gpu --ranks $ranks, $device, after the build: $((SECONDS - started)) s; logs in $logs"
printf '%s\n' "${table[@]}"
printf '%-6s %12s %11s %9s %13s %10s %10s\n' ranks tokens/s efficiency step/ms comm-wait/ms hidden data-wait
base=
for n in "${numbers[@]}"; do
  [[ -s $work/run-$n/metrics.jsonl ]] || continue
  ((n == 1)) && base=$(number 1 tokens_per_second)
  awk -v n="$n" -v t="$(number "$n" tokens_per_second)" -v base="${base:-0}" -v eta="$(number "$n" eta_seconds)" \
    -v every="$every" -v wait="$(number "$n" comm_wait_ms)" -v data="$(number "$n" data_wait)" -v sum="${sum_ms:-0}" \
    -v ranks="$ranks" 'BEGIN {
      hidden = "-"
      if (n == ranks && sum > 0) { h = 1 - wait / sum; hidden = sprintf("%.0f %%", 100 * (h < 0 ? 0 : h)) }
      printf "%-6d %12.0f %10.1f%% %9.2f %13.3f %10s %9.1f%%\n", n, t, (base > 0 ? 100 * t / (n * base) : 0),
        1000 * eta / every, wait, hidden, 100 * data
    }'
done
# Of the first shape.
full_number() { sed -nE "s/^ *\"$2\": (-?[0-9.eE+-]+),?$/\1/p" "$work/full-$1.json" | head -n 1; }
printf '%-6s %12s %11s %9s %11s %10s %9s   full-size step, %s\n' ranks tokens/s efficiency step/ms sum/ms bus/GB/s hidden "${full[*]:2}"
base=
for n in "${numbers[@]}"; do
  [[ -s $work/full-$n.json ]] || continue
  cp "$work/full-$n.json" "$logs/"
  ((n == 1)) && base=$(full_number 1 tokens_per_second)
  awk -v n="$n" -v t="$(full_number "$n" tokens_per_second)" -v base="${base:-0}" -v ms="$(full_number "$n" ms)" \
    -v sum="$(full_number "$n" comm_ms)" -v bus="$(full_number "$n" comm_bus_gb_per_second)" \
    -v hidden="$(full_number "$n" comm_hidden)" 'BEGIN {
      printf "%-6d %12.0f %10.1f%% %9.2f %11.2f %10.1f %8.0f%%\n", n, t, (base > 0 ? 100 * t / (n * base) : 0), ms, sum, bus,
        100 * hidden
    }'
done
echo "hidden: 1 - wait after backward / time of the same sum alone (${sum_ms:--} ms); $batch samples a GPU and update, $precision"
exit $status
