#!/usr/bin/env bash
# run_all.sh BIN WORK SECONDS JOBS TARGET…: runs each target of BIN for SECONDS, JOBS of them side by side, and prints a
# table. A target begins with its committed seeds and with what earlier runs found, in WORK/corpus. Exit status 1 when
# there was a finding; its input is in WORK/findings.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [ "${1:-}" = --one ]; then
  bin=$2 work=$3 seconds=$4 target=$5
  mkdir -p "$work/corpus/$target" "$work/findings" "$work/logs"
  # Without its weighing of inputs by the rarity of what they reach: of a target that is a whole service, which reaches
  # ten thousand edges, that was three quarters of the time, eight executions of nine.
  # libFuzzer's own exit status says whether there was a finding; the table is made from its output.
  status=0
  "$bin/$target" -max_total_time="$seconds" -entropic=0 -rss_limit_mb=2048 -timeout=25 -print_final_stats=1 \
    -artifact_prefix="$work/findings/$target-" "$work/corpus/$target" "$root/tests/fuzz/corpus/$target" \
    > "$work/logs/$target.log" 2>&1 || status=$?
  echo "exit status $status" >> "$work/logs/$target.log"
  exit 0
fi

bin=$1 work=$2 seconds=$3 jobs=$4
shift 4
export UBSAN_OPTIONS=print_stacktrace=1:suppressions=$root/tests/sanitizers/ubsan.supp
export ASAN_OPTIONS=suppressions=$root/tests/sanitizers/asan.supp
export LSAN_OPTIONS=print_suppressions=0:suppressions=$root/tests/sanitizers/lsan.supp
printf '%s\n' "$@" | xargs -P "$jobs" -n 1 "$0" --one "$bin" "$work" "$seconds"

stat() { LC_ALL=C sed -n "s/^stat::$2: *//p" "$work/logs/$1.log" | tail -1; }
failed=0
printf '%-26s %12s %9s %8s %9s\n' target executions exec/s corpus findings
for target in "$@"; do
  log=$work/logs/$target.log
  corpus=$(LC_ALL=C sed -nE 's/.* corp: ([0-9]+).*/\1/p' "$log" | tail -1)
  findings=0
  if ! grep -aq '^exit status 0$' "$log"; then
    findings=1 failed=1
  fi
  printf '%-26s %12s %9s %8s %9s\n' "$target" "$(stat "$target" number_of_executed_units)" \
    "$(stat "$target" average_exec_per_sec)" "${corpus:-0}" "$findings"
done
for target in "$@"; do
  log=$work/logs/$target.log
  grep -aq '^exit status 0$' "$log" && continue
  printf '\n== %s\n' "$target"
  grep -aE -A12 'ERROR|SUMMARY|runtime error|property broken|Test unit written' "$log" | head -40
done
exit $failed
