#!/bin/sh
# A rank that is killed takes all others with it within 30 s, and mpirun reports a failure. Likewise when a rank aborts or
# fails by itself.
# usage: kill_rank.sh MPIEXEC PROGRAM [DEVICE [RANKS]], where PROGRAM is comm_mpi_main, DEVICE its third argument and
# RANKS the numbers of ranks to try, "2 3" unless told.
set -u
mpiexec=$1
program=$2
device=${3:-cpu}
numbers=${4:-2 3}
limit=30
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

die() {
  echo "kill_rank: $*" >&2
  exit 1
}

# Waits until process $1 is gone, at most $limit seconds. A zombie counts as gone: it waits for its parent only.
wait_gone() {
  waited=0
  while kill -0 "$1" 2>/dev/null && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; do
    [ "$waited" -ge $((limit * 10)) ] && return 1
    sleep 0.1
    waited=$((waited + 1))
  done
  return 0
}

for ranks in $numbers; do
  rm -f "$folder"/pid.*
  "$mpiexec" -n "$ranks" "$program" loop "$folder" "$device" >"$folder/out" 2>&1 &
  launcher=$!
  last=$((ranks - 1))
  waited=0
  while [ "$(ls "$folder" | grep -c '^pid\.[0-9]*$')" -lt "$ranks" ]; do
    kill -0 "$launcher" 2>/dev/null || die "the ranks ended too early: $(cat "$folder/out")"
    [ "$waited" -ge 600 ] && die "the ranks did not start: $(cat "$folder/out")"
    sleep 0.1
    waited=$((waited + 1))
  done
  sleep 0.5
  kill -9 "$(cat "$folder/pid.$last")"
  wait_gone "$launcher" || die "mpirun still runs $limit s after rank $last of $ranks was killed"
  wait "$launcher"
  [ $? -ne 0 ] || die "mpirun reported success although a rank was killed"
  for rank in $(seq 0 $((ranks - 1))); do
    wait_gone "$(cat "$folder/pid.$rank")" || die "rank $rank outlived the killed rank $last by $limit s"
  done
done

# The last number of ranks that was tried.
timeout $limit "$mpiexec" -n "$ranks" "$program" abort . "$device" >"$folder/out" 2>&1
code=$?
[ "$code" -eq 7 ] || die "abort(7) of one rank: found exit code $code, expected 7"

timeout $limit "$mpiexec" -n "$ranks" "$program" throw . "$device" >"$folder/out" 2>&1
code=$?
[ "$code" -eq 1 ] || die "an exception of one rank: found exit code $code, expected 1"
grep -q 'error \[[0-9]* .*\] a rank that fails alone' "$folder/out" || die "the message of the failed rank is missing"
echo ok
