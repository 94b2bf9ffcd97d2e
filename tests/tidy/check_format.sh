#!/usr/bin/env bash
# check_format.sh ROOT: clang-format has nothing to change in any C++ file that git knows. 77: it cannot be checked here; in CI that is a
# failure.
set -euo pipefail
cd "$1"
skip() { echo "skipped: $1"; [ -z "${CI:-}" ] && exit 77; echo "in CI nothing may be skipped"; exit 1; }
command -v clang-format >/dev/null || skip "there is no clang-format (./run setup installs it)"
git rev-parse --git-dir >/dev/null 2>&1 || skip "not a git checkout"
git ls-files -z -- '*.h' '*.cc' | xargs -0 clang-format --dry-run -Werror
