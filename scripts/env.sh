# Sourced by every script: prints its usage for -h or a missing METHOD, goes to the project's root, and sets PYTHON.
#
# PYTHON from the environment is used as it is. Otherwise the packages of requirements.txt are installed into .venv,
# once and whenever that file changes. A relative DATA (folder of the data sets) or PYTHON starts at the current folder.
set -euo pipefail

usage() { # the comment at the script's top, and the methods where it takes one
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  ! takes_method || (cd "$(dirname "${BASH_SOURCE[0]}")/../configs/trainers" && printf '\nMETHOD is one of: %s\n' "$(echo [!_]*)")
}

takes_method() {
  grep -qs '^#   s*ba[a-z]* scripts/[^ ]* METHOD' "$0"
}

words=0
for word in "$@"; do
  case "$word" in
    -h | --help) usage; exit 0 ;;
    -*) ;;
    *) words=$((words + 1)) ;;
  esac
done
if [ $words = 0 ] && takes_method; then
  usage >&2
  exit 2
fi

if [ -n "${DATA:-}" ]; then
  [ -d "$DATA" ] || { echo "DATA=$DATA is no folder; it must be the one that holds the data sets" >&2; exit 2; }
  DATA="$(cd "$DATA" && pwd)"
  export DATA
fi

case "${PYTHON:-}" in
  /*) ;;
  */*) PYTHON="$PWD/$PYTHON" ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_venv() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    { echo "python3 of version 3.10 or newer is needed, found: $(python3 --version 2>&1)" >&2; exit 2; }
  [ -x .venv/bin/python ] || python3 -m venv .venv ||
    { echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf .venv; exit 2; }
  echo "Installing requirements.txt into .venv" >&2
  .venv/bin/python -m pip install --quiet --requirement requirements.txt >&2 ||
    { echo "Installing requirements.txt failed, see above; or set PYTHON to an interpreter that has the packages" >&2; exit 2; }
  echo "$wanted" > .venv/requirements.cksum
}

if [ -z "${PYTHON:-}" ]; then
  wanted="$(cksum < requirements.txt)"
  [ "$(cat .venv/requirements.cksum 2>/dev/null)" = "$wanted" ] || make_venv
  PYTHON=.venv/bin/python
fi
