#!/usr/bin/env bash
# Best effort: programs that some tests use (Slurm, Chromium, a C++ compiler, shellcheck). Tests that lack one are skipped and say so.
# Needs root and apt-get; never asks, never fails.
set -uo pipefail
exec < /dev/null
export DEBIAN_FRONTEND=noninteractive

missing=()
want() { # want COMMAND PACKAGE...: the packages, unless the command is there
    command -v "$1" > /dev/null || missing+=("${*:2}")
}
want slurmctld slurmctld slurmd slurm-client munge
want chromium chromium
want g++ g++
want shellcheck shellcheck

if [ ${#missing[@]} -eq 0 ]; then
    echo "system packages: all there"
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "system packages: not installed, for want of root or apt-get: ${missing[*]}; the tests that need them will be skipped"
    exit 0
fi

log=$(mktemp)
apt-get update -qq > "$log" 2>&1 || echo "system packages: apt-get update failed: $(tail -n 1 "$log")"
for packages in "${missing[@]}"; do
    # shellcheck disable=SC2086  # a group is several words on purpose
    if apt-get install -qq -y --no-install-recommends $packages > "$log" 2>&1; then
        echo "system packages: installed $packages"
    else
        echo "system packages: could not install $packages ($(tail -n 1 "$log")); the tests that need them will be skipped"
    fi
done
rm -f "$log"
