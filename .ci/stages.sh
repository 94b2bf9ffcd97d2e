#!/usr/bin/env bash
# The stages of `./run ci`, one after the other; a failed one does not keep the next from being run, but the exit status
# is then 1. HEDDLE_CI_MINUTES (240): what all of it may take. The fuzz targets come before the sanitizers, which take
# what they take, so that each target gets its minute; only where less than that is left after the suite they share it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

budget=$((${HEDDLE_CI_MINUTES:-240} * 60))
fuzz_jobs=$(nproc)
table="" failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# stage NAME COMMAND…: runs it under a line with the time, and keeps what CTest said last for the table.
stage() {
  local name=$1 began=$SECONDS status=0 said
  shift
  printf '\n==== %s UTC, %d min %02d s after the start: %s\n' "$(date -u +%H:%M:%S)" $((SECONDS / 60)) $((SECONDS % 60)) "$*"
  "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed=1
  said=$(grep -E '^[0-9]+% tests passed' "$log" | tail -1)
  table+=$(printf '%-12s %4d min %02d s  %-6s %s' "$name" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) \
    "$([ "$status" -eq 0 ] && echo ok || echo FAILED)" "$said")$'\n'
}

stage suite ./run test

targets=$(ls tests/fuzz/corpus | wc -l)
left=$((budget - SECONDS))
each=$((left * fuzz_jobs / targets))
[ "$each" -le 60 ] || each=60
[ "$each" -ge 3 ] || each=3
[ "$each" -eq 60 ] || printf '\n%d s of %d are left for %d fuzz targets: each gets %d s instead of 60\n' "$left" "$budget" "$targets" "$each"
stage fuzz ./run fuzz --each "$each"

stage asan ./run test --preset asan
stage tsan ./run test --preset tsan

printf '\n%s' "$table"
printf 'all of it: %d min %02d s of %d min\n' $((SECONDS / 60)) $((SECONDS % 60)) $((budget / 60))
exit $failed
