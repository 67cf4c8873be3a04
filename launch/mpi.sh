# shellcheck shell=bash
# Sourced by the scripts of this folder.

have_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# Children of process $1. /proc/PID/task/PID/children, pgrep and ps are not everywhere.
children_of() {
  local status
  grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | while read -r status; do
    status=${status#/proc/}
    echo "${status%/status}"
  done
}

# run_ranks N COMMAND...: the command on N ranks of this machine. On SIGTERM or Ctrl-C the ranks are told to stop (they
# finish their update and write a checkpoint) and 130 is returned once they have.
run_ranks() {
  local ranks=$1
  shift
  # As root (containers) mpirun wants to be told; sandboxed kernels forbid its single-copy transport between processes.
  local -x OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
  local -x MATVLM_TERMINAL=0
  if [[ -t 2 ]]; then MATVLM_TERMINAL=1; fi
  # More ranks than cores; ranks not tied to one core each, since they have threads. In a session of its own: Ctrl-C
  # shall not reach mpirun, which would kill its ranks within two seconds.
  setsid mpirun --oversubscribe --bind-to none -n "$ranks" "$@" </dev/null &
  local mpirun=$! status=0 stopped=false
  # shellcheck disable=SC2064 # the process id of now
  trap "stopped=true; kill -TERM \$(children_of $mpirun) 2>/dev/null || true" TERM INT
  wait "$mpirun" || status=$?
  while kill -0 "$mpirun" 2>/dev/null; do # a signal ended the wait
    status=0
    wait "$mpirun" || status=$?
  done
  trap - TERM INT
  if $stopped; then return 130; fi
  return "$status"
}
