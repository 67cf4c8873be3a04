#!/usr/bin/env bash
# The compute sanitizer over the op suites, four at a time; called by tests/gpu --sanitizer.
#   tests/sanitizer/run.sh BUILD LOGS [TOOL[:SUITE,...]]...     tools: memcheck racecheck synccheck, all without arguments
#
# What the tools see is not taken on trust: `control` holds a correct hand-over by mbarriers, a correct one by block
# barriers, a correct one from block to block of a cluster, a race, and a block barrier reached at two places of the code.
# racecheck has to report the race and not the block barriers, synccheck the barrier at two places and not the one at one
# place, both with the options used below.
# racecheck does not follow mbarriers, so it reports hand-overs of kernels that are ordered by nothing else. Only if it
# also reports the control's hand-over by mbarriers are reports from the kernels of $by_mbarrier set apart in the table;
# any other report is an error. Likewise only if racecheck reports the control's correct cluster, or breaks down by an
# internal error of its own on it or on the kernels of clusters of head_loss themselves while memcheck finds them clean,
# is head_loss checked by racecheck without those kernels, and its row says so. synccheck and memcheck have no exceptions.
set -uo pipefail
build=$1
logs=$2
shift 2
by_mbarrier='hopper_[a-z]+_kernel|ssd_chunk::(pipeline_kernel|backward_group_kernel|(states|backward|backward_heads)_kernel<[^>]*(\(bool\)1|true)>)'
limit=${SANITIZER_LIMIT:-120} # seconds a run
suites=(conv1d ssd ssd_raw ssd_states ssd_step gated_rms_norm attention attention_bf16 kv_cache rotary layer_loss norms
  activation embed linear head_loss parameter)

# racecheck and synccheck look at this project's kernels alone: what the libraries do inside a product is not ours to
# judge, and following it takes most of the time. memcheck looks at all: a wrong pointer may be our doing.
options_of() { # TOOL
  [[ $1 == memcheck ]] || echo '--kernel-regex kns=matvlm'
}

# Few and short cases where a whole suite would take minutes under a tool. Each set launches every kernel of its op:
#   ssd_raw   Bf16Few: state pass, pipeline, backward by one head, by several and by groups with bulk copies, and the
#             portable ones for operands at odd offsets; Bf16FewPortable: the portable ones on both sizes of shared memory
#   head_loss EveryKernelPortable and EveryKernelOfClusters: each loss in both types, for rows that are not aligned, and
#             for a cluster's short and long rows
#   attention_bf16   heads of 20, 64, 80, 88 and 128: the five widths that kernels are compiled for, each with kernels
#             for bulk copies, portable ones and rows at odd offsets
#   attention float32: one template for all widths; 80 causal, 72 full, packed rows with empty sequences
filter_of() { # TOOL SUITE
  case "$1 $2" in
    "racecheck ssd_raw") echo 'SsdRawCuda.Bf16Few*' ;;
    *" ssd_raw") echo 'SsdRawCuda.Bf16Few*:SsdRawCuda.Bf16SeveralHeadsABlock' ;;
    *" attention") echo '*AttentionCuda.*/4:*AttentionCuda.*/5:*AttentionCuda.*/15' ;;
    *" attention_bf16") echo '*AttentionBf16Cuda.*/'{1,2,4,6,31} | tr ' ' ':' ;;
    *" kv_cache") echo 'KvCacheCuda.DecodeEqualsFullForward' ;;
    "racecheck head_loss")
      if [[ -e $logs/clusters-not-followed ]]; then
        echo 'HeadLossCuda.EveryKernelPortable'
      else
        echo 'HeadLossCuda.EveryKernel*:HeadLossCuda.LogitsAndArgmax'
      fi
      ;;
    *) echo '*Cuda*' ;;
  esac
}

# What filter_of leaves unchecked because the tool cannot see it.
left_out_of() { # TOOL SUITE
  [[ "$1 $2" != "racecheck head_loss" || ! -e $logs/clusters-not-followed ]] || echo ', kernels of clusters LEFT OUT'
}

# Kernels that racecheck names in a log, two a report.
reported_kernels() { grep -E '(Race reported between|and) (Read|Write) access' "$1"; }

row() { printf '%-10s %-15s %4s s  %s\n' "$@"; }

# The control's kernels under racecheck or synccheck.
check_control() { # TOOL
  local tool=$1 way log status clean=barrier blind='' ways=(barrier mbarrier cluster race)
  [[ $tool == racecheck ]] || ways=(barrier sites)
  for way in "${ways[@]}"; do
    log=$logs/$tool-control-$way.log
    "$build/tests/sanitizer_control" "$way" >"$log" 2>&1
    status=$?
    ((status == 77)) && { row "$tool" control - "left out: built without sm_90a"; return 0; }
    ((status == 0)) || { row "$tool" "control $way" - "FAILED: exit $status without the tool"; return 1; }
    # shellcheck disable=SC2046  # options are words
    timeout "$limit" compute-sanitizer --tool "$tool" $(options_of "$tool") --error-exitcode 9 \
      "$build/tests/sanitizer_control" "$way" >"$log" 2>&1
    status=$?
    case "$way $status" in
      "barrier 0" | "race 9" | "sites 9" | "mbarrier 0" | "cluster 0") ;;
      "mbarrier 9" | "cluster 9") touch "$logs/${way}s-not-followed" ;;
      *)
        if [[ $way != cluster ]] || ! grep -q 'Internal Sanitizer Error' "$log"; then
          row "$tool" "control $way" - "FAILED: exit $status, see $log"
          return 1
        fi
        touch "$logs/clusters-not-followed"
        ;;
    esac
  done
  if [[ $tool == synccheck ]]; then
    row synccheck control - "barrier at two places found, barrier at one place clean"
    return 0
  fi
  for way in mbarrier cluster; do
    if [[ -e $logs/${way}s-not-followed ]]; then blind+=" $way"; else clean+=" $way"; fi
  done
  row racecheck control - "race found; clean: $clean${blind:+; correct but not clean, so not followed:$blind}"
}

# Whether every pattern of the filter ran a test: a test of another name would be missed in silence.
ran_all() { # LOG FILTER
  local pattern patterns
  IFS=: read -r -a patterns <<<"$2"
  for pattern in "${patterns[@]}"; do
    pattern=${pattern//./\\.}
    grep -qE "^\[ RUN      \] ${pattern//\*/.*}\$" "$1" || return 1
  done
}

# Whether racecheck ended by an error inside itself on kernels of clusters in which memcheck finds nothing.
breaks_down_on_clusters() { # LOG OF RACECHECK
  grep -q 'Internal Sanitizer Error' "$1" || return 1
  timeout "$limit" compute-sanitizer --tool memcheck --error-exitcode 9 "$build/tests/test_autograd_head_loss" \
    '--gtest_filter=HeadLossCuda.EveryKernelOfClusters' >"$1.memcheck" 2>&1 && ran_all "$1.memcheck" HeadLossCuda.EveryKernelOfClusters
}

run_suite() { # TOOL SUITE
  local tool=$1 suite=$2 log=$logs/$1-$2.log started=$SECONDS status reports others filter
  filter=$(filter_of "$tool" "$suite")
  # shellcheck disable=SC2046
  timeout "$limit" compute-sanitizer --tool "$tool" $(options_of "$tool") --error-exitcode 9 \
    "$build/tests/test_autograd_$suite" "--gtest_filter=$filter" >"$log" 2>&1
  status=$?
  if [[ "$tool $suite" == "racecheck head_loss" && ! -e $logs/clusters-not-followed ]] && breaks_down_on_clusters "$log"; then
    touch "$logs/clusters-not-followed"
    run_suite "$tool" "$suite"
    return
  fi
  local seconds=$((SECONDS - started))
  if ! grep -q '^\[  PASSED  \] [1-9]' "$log" && ((status != 124)); then
    row "$tool" "$suite" $seconds "FAILED: exit $status, no test passed, see $log"
    return 1
  fi
  if ((status != 124)) && ! ran_all "$log" "$filter"; then
    row "$tool" "$suite" $seconds "FAILED: a pattern of $filter ran no test, see $log"
    return 1
  fi
  if ((status == 0)); then
    row "$tool" "$suite" $seconds "clean$(left_out_of "$tool" "$suite")"
    return 0
  fi
  if ((status == 124)); then
    row "$tool" "$suite" $seconds "FAILED: did not end in $limit s"
    return 1
  fi
  if [[ $tool == racecheck && $status == 9 && -e $logs/mbarriers-not-followed ]] && ! grep -q '^\[  FAILED' "$log"; then
    reports=$(reported_kernels "$log" | wc -l)
    others=$(reported_kernels "$log" | grep -cvE "$by_mbarrier")
    if ((reports > 0 && others == 0)); then
      row "$tool" "$suite" $seconds "clean but for $((reports / 2)) reports in kernels that hand over by mbarriers"
      return 0
    fi
  fi
  row "$tool" "$suite" $seconds "FAILED: exit $status, see $log"
  grep -E '^\[  FAILED|Race reported|Invalid|Divergent|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | head -n 3
  return 1
}

# Suites of one tool: `$running` at a time, the rows in the order in which they end.
run_tool() { # TOOL SUITES...
  local tool=$1 suite status=0
  shift
  [[ $tool == memcheck ]] || check_control "$tool" || status=1
  local running=0
  for suite in "$@"; do
    [[ -x $build/tests/test_autograd_$suite ]] || { row "$tool" "$suite" - "FAILED: not built"; status=1; continue; }
    ((running < 4)) || { wait -n || status=1; running=$((running - 1)); }
    run_suite "$tool" "$suite" &
    running=$((running + 1))
  done
  while ((running > 0)); do
    wait -n || status=1
    running=$((running - 1))
  done
  return $status
}

command -v compute-sanitizer >/dev/null || { echo "sanitizer: found no compute-sanitizer in PATH" >&2; exit 1; }
rm -f "$logs/mbarriers-not-followed" "$logs/clusters-not-followed"
wanted=("$@")
((${#wanted[@]})) || wanted=(memcheck racecheck synccheck)
failed=0
for entry in "${wanted[@]}"; do
  tool=${entry%%:*}
  [[ $tool == memcheck || $tool == racecheck || $tool == synccheck ]] ||
    { echo "sanitizer: found '$tool', expected memcheck, racecheck or synccheck" >&2; exit 2; }
  chosen=("${suites[@]}")
  [[ $entry == *:* ]] && IFS=, read -r -a chosen <<<"${entry#*:}"
  run_tool "$tool" "${chosen[@]}" || failed=1
done
exit $failed
