#!/usr/bin/env bash
# check_format.sh ROOT: clang-format has nothing to change in any C++ file that git knows. 77: it cannot be checked here.
set -euo pipefail
cd "$1"
command -v clang-format >/dev/null || { echo "skipped: there is no clang-format (./run setup installs it)"; exit 77; }
git rev-parse --git-dir >/dev/null 2>&1 || { echo "skipped: not a git checkout"; exit 77; }
git ls-files -z -- '*.h' '*.cc' | xargs -0 clang-format --dry-run -Werror
