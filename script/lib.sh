# shellcheck shell=bash
# Functions of all scripts. Sourcing it changes to the repository's folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() {
  printf '%s: %s\n' "${0##*/}" "$*"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Print the comment at the script's top for --help; refuse any other argument.
takes_no_arguments() {
  (( $# > 0 )) || return 0
  [[ $* == --help || $* == -h ]] || fail "no argument is known but --help: $*"
  sed -n '2,/^set /s/^# \{0,1\}//p' "script/${0##*/}"
  exit
}
