# shellcheck shell=bash
# Sourced by the scripts of this folder: run_ranks N COMMAND... runs a command on N ranks of this machine.
run_ranks() {
  local ranks=$1
  shift
  # As root (containers); more ranks than cores; ranks not tied to one core each, since they have threads.
  local -x OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  # mpirun passes SIGTERM and SIGINT on and kills after a second by default: a rank needs the time to finish its step
  # and write a checkpoint.
  local -x OMPI_MCA_odls_base_sigkill_timeout=300
  # Sandboxed kernels forbid the single-copy transport between processes; the plain one is as fast for our sizes.
  local -x OMPI_MCA_btl_vader_single_copy_mechanism=none
  mpirun --oversubscribe --bind-to none -n "$ranks" "$@"
}

have_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
