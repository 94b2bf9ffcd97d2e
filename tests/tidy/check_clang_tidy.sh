#!/usr/bin/env bash
# check_clang_tidy.sh ROOT BUILD: the checks of .clang-tidy over the sources of all rooms that are compiled without LibTorch's header, up to
# sixteen at a time, since most of the time goes into the headers: those whose nameless namespaces have no name in common. A group that does
# not compile all the same is checked source by source. 77: they cannot be checked here; in CI that is a failure.
set -euo pipefail
root=$1 build=$2
skip() { echo "skipped: $1"; [ -z "${CI:-}" ] && exit 77; echo "in CI nothing may be skipped"; exit 1; }
command -v clang-tidy >/dev/null || skip "there is no clang-tidy (./run setup installs it)"
[ -r "$build/compile_commands.json" ] || skip "$build has no compile_commands.json"
# Tests and what is compiled with LibTorch may be; what is checked here may not.
if ! awk -v tests="$build/tests/" '/"command": / { command = $0 } /"file": .*\/Unity\/unity_/ && !index($0, tests) && command !~ /heddle_torch_pch/ { exit 1 }' \
  "$build/compile_commands.json"; then
  echo "skipped: $build compiles several sources as one; the release build checks them"
  exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Reads the commands without the compiler cache in front and the options that only GCC knows; writes files that include the sources of a group
# (group_N.cc) and each alone (alone_N_M.cc), and their commands.
sed -E -e 's/("command": ").*ccache /\1/' -e 's/ -fcoroutines| -fpch-preprocess//g' "$build/compile_commands.json" |
  awk -v root="$root" -v work="$work" -v directory="$build" '
    # What the nameless namespaces of a file declare at the beginning of a line, into names[]: how many. What it takes from other namespaces,
    # or defines for other files, into uses[].
    function declared(file, names, uses,   line, nameless, n) {
      n = 0
      delete uses
      while ((getline line < file) > 0) {
        if (line ~ /^using [A-Za-z0-9_:]*::[A-Za-z0-9_]*;/) { sub(/;.*/, "", line); sub(/.*:/, "", line); uses[line] }
        else if (line ~ /^using [A-Za-z0-9_]+ =/) { sub(/ =.*/, "", line); sub(/^using /, "", line); names[++n] = line }
        else if (line ~ /^namespace \{/) nameless = 1
        else if (line ~ /^}  \/\/ namespace/) nameless = 0
        else if (nameless && line ~ /^[A-Za-z]/ && line !~ /^(using|namespace|template)/) {
          if (line ~ /^(struct|class|enum)/) { sub(/^(struct|enum class|class|enum) /, "", line); sub(/[^A-Za-z0-9_].*/, "", line) }
          else { sub(/ *[({=;\[].*/, "", line); sub(/.*[^A-Za-z0-9_]/, "", line) }
          names[++n] = line
        } else if (!nameless && line ~ /^[A-Za-z][^;]* [A-Za-z0-9_]+\(/) {
          sub(/\(.*/, "", line); sub(/.*[^A-Za-z0-9_]/, "", line)
          uses[line]
        }
      }
      close(file)
      return n
    }
    # With the folders and macros of all sources, so that sources of any two libraries can be of one group.
    function entry(file, key) {
      printf "%s{\"directory\": \"%s\", \"command\": \"%s%s%s -c %s\", \"file\": \"%s\"}", separator, directory, compiler, common, key, file, file
      separator = ",\n"
    }
    function needed(option) {
      if (!(option in seen)) common = common " " option
      seen[option]
    }
    # The first group that has room and no name of these.
    function group_for(names, n, uses, key,   g, i, name) {
      for (g = 1; g <= groups; ++g) {
        if (key_of[g] != key || count[g] == 16) continue
        for (i = 1; i <= n && !((g, names[i]) in taken) && !((g, names[i]) in used); ++i);
        if (i <= n) continue
        i = 0
        for (name in uses) if ((g, name) in taken) i = 1
        if (!i) return g
      }
      key_of[++groups] = key
      return groups
    }
    BEGIN { printf "[" }
    /"command": / { command = $0; sub(/^ *"command": "/, "", command); sub(/",?$/, "", command) }
    /"file": / {
      file = $0; sub(/^ *"file": "/, "", file); sub(/",?$/, "", file)
      name = substr(file, length(root) + 2)
      if (substr(file, 1, length(root) + 1) != root "/" || command ~ /heddle_torch_pch/ || name !~ /\.cc$/ ||
          name !~ /^(common|protocol|model|zo_optim|aggregation|peft|client|coordinator|simulator)\//) next
      sub(/ -o [^ ]+ -c .*/, "", command)
      words = split(command, word, " ")
      compiler = word[1]
      key = ""  # what the processor must know
      for (i = 2; i <= words; ++i) {
        if (word[i] ~ /^-m/) key = key " " word[i]
        else if (word[i] == "-isystem") needed(word[i] " " word[++i])
        else if (word[i] ~ /^-[DIW]|^-std=/) needed(word[i])
      }
      n = declared(file, names, uses)
      g = group_for(names, n, uses, key)
      for (i = 1; i <= n; ++i) taken[g, names[i]]
      for (use in uses) used[g, use]
      alone = work "/alone_" g "_" ++count[g] ".cc"
      print "#include \"" file "\"" > alone
      close(alone)
      print "#include \"" file "\"" >> (work "/group_" g ".cc")
    }
    END {
      for (g = 1; g <= groups; ++g) {
        entry(work "/group_" g ".cc", key_of[g])
        for (i = 1; i <= count[g]; ++i) entry(work "/alone_" g "_" i ".cc", key_of[g])
      }
      print "]"
    }' > "$work/compile_commands.json"
ls "$work"/group_*.cc >/dev/null || { echo "no source was found in $build/compile_commands.json"; exit 1; }

export root work
check() { clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option --config-file="$root/.clang-tidy" -p "$work" "$@" 2>&1; }
check_group() {
  local said
  said=$(check "$1.cc") && return
  if [[ $said == *clang-diagnostic-error* ]]; then
    echo "checked source by source, since they do not compile together: $(grep -m1 clang-diagnostic-error <<< "$said")"
    said=$(check "${1/group_/alone_}"_*.cc) && return
  fi
  printf '%s\n' "$said"
  return 1
}
export -f check check_group
for g in "$work"/group_*.cc; do echo "${g%.cc}"; done | xargs -P "$(env -u OMP_NUM_THREADS nproc)" -n 1 bash -c 'check_group "$0"'
