#!/usr/bin/env bash
# check_neon.sh ROOT PATHS: directions and grids on ARM's vectors, emulated, are those of this machine (PATHS: test_zo_paths). 77: there is no
# cross compiler or no emulator (apt-get install g++-aarch64-linux-gnu qemu-user).
set -euo pipefail
root=$1 paths=$2
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || { echo "skipped: there is no $tool"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What hashes names is not called, and its library not there.
aarch64-linux-gnu-g++ -std=c++20 -O2 -ffp-contract=off -I"$root" -static -Wl,--unresolved-symbols=ignore-all -o "$work/paths" \
  "$root"/tests/unit/zo_optim/paths_main.cc "$root"/zo_optim/direction/{direction,kernel_scalar,kernel_neon}.cc "$root"/zo_optim/grid/grid.cc \
  "$root"/common/{assert,random}.cc
qemu-aarch64 "$work/paths" > "$work/there"
"$paths" > "$work/here"
cat "$work/here" "$work/there"
grep -q NEON "$work/there" || { echo "the emulated program has no NEON path"; exit 1; }
strip() { sed -E 's/^([a-z]+) [^ ]+/\1/' "$1" | sort -u; }
[ "$(strip "$work/here")" = "$(strip "$work/there")" ] || { echo "the paths differ"; exit 1; }
[ "$(strip "$work/here" | wc -l)" = 2 ] || { echo "a path differs from the others"; exit 1; }
