#!/usr/bin/env bash
# Refuses a policy that does not hold on this machine, or is too old. For CI and for start-up.
#
#   check-policy.sh POLICY [MODEL]
#
# PHASE: the program (default: phase). MAX_AGE_DAYS: refuse older policies (default: 90, the cadence of the source
# document). ARGS: more arguments of `phase check`.
# Exit code: 0 it holds; 10 to 13 by the severity of what changed; 20 too old; otherwise that of the program. A change that
# only asks for other weights (10) is passed with a warning.
set -uo pipefail

policy=${1:?usage: check-policy.sh POLICY [MODEL]}
phase=${PHASE:-phase}
arguments=(--policy "$policy")
if [ -n "${2:-}" ]; then arguments+=(--model "$2"); fi

# Reading it checks digest, version and consistency.
document=$("$phase" policy show "$policy" --json) || exit $?
created=$(sed -n 's/^  "created_unix_s": \([0-9]*\),$/\1/p' <<<"$document")
days=$((($(date +%s) - ${created:?the policy does not say when it was compiled}) / 86400))
if [ "$days" -gt "${MAX_AGE_DAYS:-90}" ]; then
    echo "the policy is $days days old: measure again and compile another" >&2
    exit 20
fi

# shellcheck disable=SC2086 # ARGS are several words.
"$phase" check "${arguments[@]}" ${ARGS:-}
code=$?
case $code in
0) echo "the policy holds" ;;
10) echo "the policy holds, but was weighted for another mix or other prices" >&2 && exit 0 ;;
11) echo "refused: measure the cells above again" >&2 ;;
12) echo "refused: its energies do not hold" >&2 ;;
13) echo "refused: its numbers are of another machine, model or runtime" >&2 ;;
esac
exit $code
