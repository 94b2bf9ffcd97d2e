#!/usr/bin/env bash
# check_clang_tidy.sh ROOT BUILD: the checks of .clang-tidy over the sources that are free of LibTorch. 77: they cannot
# be checked here.
set -euo pipefail
root=$1 build=$2
command -v clang-tidy >/dev/null || { echo "skipped: there is no clang-tidy (./run setup installs it)"; exit 77; }
[ -r "$build/compile_commands.json" ] || { echo "skipped: $build has no compile_commands.json"; exit 77; }
# Tests may be; what is checked here may not.
if grep -E '"file": "[^"]*/Unity/unity_' "$build/compile_commands.json" | grep -qvE "^ *\"file\": \"$build/tests/"; then
  echo "skipped: $build compiles several sources as one; the release build checks them"
  exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Without the compiler cache in front and the options that only GCC knows.
sed -E -e 's/("command": ").*ccache /\1/' -e 's/ -fcoroutines| -fpch-preprocess//g' \
    "$build/compile_commands.json" > "$work/compile_commands.json"

sources=$(cd "$root" && grep -oE '"file": "[^"]+\.cc"' "$work/compile_commands.json" | sed -E 's/.*"([^"]+)"$/\1/' |
  grep -E "^$root/(common|protocol|aggregation|coordinator|client/daemon)/" |
  grep -v "^$root/coordinator/split/" | sort -u)
printf '%s\n' "$sources" | xargs -P "$(nproc)" -n 1 \
  clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option -p "$work"
