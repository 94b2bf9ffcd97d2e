#!/usr/bin/env bash
# check_run_script.sh ROOT: ./run on a machine that is not Debian's says what to install and how to go on; what it does not know it refuses;
# where everything is installed it needs no network.
set -euo pipefail
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
for tool in bash env dirname nproc sed cat; do ln -s "$(command -v "$tool")" "$tools/$tool"; done

# expect STATUS WORDS… -- ARGUMENTS OF run…: it ends so and says all these, and what else is in $said.
expect() {
  local status=$1 words=() got=0 word
  shift
  while [ "$1" != -- ]; do words+=("$1"); shift; done
  shift
  said=$(env -i PATH="$tools" HOME="$tools" "$root/run" "$@" 2>&1) || got=$?
  [ "$got" = "$status" ] || { echo "./run $* ended with $got, not $status: $said"; exit 1; }
  for word in "${words[@]}"; do
    [[ $said == *"$word"* ]] || { echo "./run $* does not say '$word': $said"; exit 1; }
  done
}

root=$1
for command in demo test bench build fuzz; do
  expect 1 "no apt-get" libtorch-dev libopenblas0-openmp protobuf-compiler "HEDDLE_SKIP_SETUP=1 ./run $command" -- "$command"
done
expect 1 "--out needs a folder" -- demo --out
expect 1 "must be a number" -- fuzz fuzz_text many
expect 2 "no command 'dmo'" "./run demo" -- dmo
expect 0 "./run demo" "./run test" "./run bench" -- help

# A Debian where all packages are there but those named in the file "missing"; its apt-get has no network.
for tool in grep touch; do ln -s "$(command -v "$tool")" "$tools/$tool"; done
fake() { printf '#!/usr/bin/env bash\n%s\n' "$2" > "$tools/$1"; chmod +x "$tools/$1"; }
: > "$tools/missing"
fake dpkg-query 'grep -qxF -- "${!#}" "$HOME/missing" && exit 1; printf installed'
fake apt-get 'touch "$HOME/called"; exit 100'
fake id 'echo 0'
expect 0 "Set up." -- setup
[ "$said" = "Set up." ] || { echo "./run setup with nothing to install says: $said"; exit 1; }
[ ! -e "$tools/called" ] || { echo "./run setup with nothing to install calls apt-get"; exit 1; }
echo bible-kjv > "$tools/missing"
expect 1 "Installing 1 packages: bible-kjv" "is there a network?" -- setup
[ -e "$tools/called" ] || { echo "./run setup does not install what is missing"; exit 1; }

# Checks of the tree whose tool is missing are skipped, but not in CI.
for check in check_format.sh check_clang_tidy.sh; do
  for ci in "" 1; do
    got=0
    env -i PATH="$tools" CI="$ci" "$root/tests/tidy/$check" "$root" "$root/none" > /dev/null || got=$?
    [ "$got" = "$([ -n "$ci" ] && echo 1 || echo 77)" ] || { echo "$check without its tool ends with $got (CI='$ci')"; exit 1; }
  done
done
