#!/usr/bin/env bash
# check_clang_tidy.sh ROOT BUILD: the checks of .clang-tidy over the sources that are free of LibTorch, four of a library at a time where
# they can be one (heddle_apart in HeddleDependencies.cmake says where not): most of the time goes into the headers. 77: they cannot be
# checked here.
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
apart=$(sed -n '/^set(heddle_apart/,/)/p' "$root/common/cmake/HeddleDependencies.cmake" | tr '()' '  ')
# Reads the commands without the compiler cache in front and the options that only GCC knows; writes files that include up to four sources
# of one library with the same options, and their commands.
sed -E -e 's/("command": ").*ccache /\1/' -e 's/ -fcoroutines| -fpch-preprocess//g' "$build/compile_commands.json" |
  awk -v root="$root" -v work="$work" -v apart=" $(echo $apart) " -v directory="$build" '
    function finish(key) {
      if (count[key] == 0) return
      file = work "/group_" ++groups ".cc"
      printf "%s", includes[key] > file
      close(file)
      options = key; sub(/^[^\t]*\t/, "", options)
      printf "%s{\"directory\": \"%s\", \"command\": \"%s -c %s\", \"file\": \"%s\"}", separator, directory, options, file, file
      separator = ",\n"
      count[key] = 0
      includes[key] = ""
    }
    BEGIN { printf "[" }
    /"command": / { command = $0; sub(/^ *"command": "/, "", command); sub(/",?$/, "", command) }
    /"file": / {
      file = $0; sub(/^ *"file": "/, "", file); sub(/",?$/, "", file)
      name = substr(file, length(root) + 2)
      if (substr(file, 1, length(root) + 1) != root "/" || name !~ /^(common|protocol|aggregation|coordinator|client\/daemon)\// ||
          name ~ /^coordinator\/split\// || name !~ /\.cc$/) next
      target = command; sub(/.*CMakeFiles\//, "", target); sub(/\.dir\/.*/, "", target)
      options = command; sub(/ -o [^ ]+ -c .*/, "", options)
      key = target "\t" options
      includes[key] = includes[key] "#include \"" file "\"\n"
      if (++count[key] == (index(apart, " " target " ") ? 1 : 4)) finish(key)
    }
    END { for (key in count) finish(key); print "]" }' > "$work/compile_commands.json"
ls "$work"/group_*.cc >/dev/null || { echo "no source was found in $build/compile_commands.json"; exit 1; }
printf '%s\n' "$work"/group_*.cc | xargs -P "$(nproc)" -n 1 \
  clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option --config-file="$root/.clang-tidy" -p "$work"
