#!/usr/bin/env bash
# Installs Croft on this machine: `sudo ./install.sh` in a checkout or an unpacked release, or piped:
#   curl -fsSL URL/install.sh | sudo bash -s -- --source URL --domain NAME --email ADDRESS
# Piped, it fetches the one release whose checksum stands below and runs nothing of it before the checksum agrees.
# `--dry-run` prints what would be done; `--uninstall` takes it back. All options: `--help`.
set -euo pipefail

# Written by the release (appliance/host/release.py). A checkout leaves them empty.
readonly RELEASE_VERSION=""
readonly RELEASE_SHA256=""

# Asked here and not in a function: there bash says "main" of a script that is piped, and somebody may have left a file of that name.
readonly SCRIPT=${BASH_SOURCE[0]:-}
readonly LOG=/var/log/croft/install.log
readonly CACHE=/var/cache/croft-install

main() {
  umask 022
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  local tree
  # One that names a release runs that and nothing else, wherever it was saved: what lies beside it may be anybody's.
  if [[ -z $RELEASE_SHA256 ]] && tree=$(tree_of "$SCRIPT"); then
    run_from "$tree" "$@"
  else
    need_root
    run_release "$@"
  fi
}

# The folder that holds the installer, beside this script or (installed) in its virtual environment.
tree_of() {
  local here candidate
  [[ -n $1 && -f $1 ]] || return 1
  here=$(cd -- "$(dirname -- "$1")" && pwd)
  for candidate in "$here" "$here"/lib/python3*/site-packages; do
    if [[ -f $candidate/appliance/host/install/main.py ]]; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

run_from() {
  local tree=$1 status=0
  shift
  wants_only_looking "$@" || need_root
  local python
  python=$(find_python)
  if [[ -z $python ]]; then
    wants_only_looking "$@" && die "this machine has no Python 3.11 or newer, so nothing can be planned yet" \
      "Without --dry-run the installer installs it first."
    install_python
    python=$(find_python)
    [[ -n $python ]] || die "this distribution offers no Python 3.11 or newer" "Use Debian 12 or 13, or Ubuntu 22.04 or 24.04."
  fi
  case " $* " in
    *" --dry-run "* | *" --help "* | *" -h "*) phase "$python" "$tree" check "$@" && exit 0 || exit $? ;;
  esac
  phase "$python" "$tree" check "$@" || exit $?
  confirm "$@" || { echo "Nothing was changed."; exit 3; }
  detached "$python" "$tree" "$@" || status=$?
  ((status == 0)) || die "the installation did not finish (its log: $LOG)" "Run the same command again: it resumes where it stopped."
  case " $* " in *" --uninstall "*) exit 0 ;; esac
  exec "$python" -I -B -c "$BOOT" "$tree" finish "${BOOTSTRAP_OPTION[@]}" "$@"
}

# Isolated from the caller's environment and folder: only the standard library and the tree named first are importable.
readonly BOOT='import sys
from pathlib import Path
tree = sys.argv.pop(1)
sys.path.insert(0, tree)
from appliance.host.install.main import main
sys.exit(main(sys.argv[1:], Path(tree)))'

BOOTSTRAP_OPTION=()

phase() {
  local python=$1 tree=$2 name=$3
  shift 3
  "$python" -I -B -c "$BOOT" "$tree" "$name" "${BOOTSTRAP_OPTION[@]}" "$@"
}

# The changing phase has its own session and writes to a log: a lost connection or Ctrl-C ends only the looking on.
detached() {
  local python=$1 tree=$2 child follower="" status=0
  shift 2
  install -d -m 0750 "$(dirname "$LOG")"
  (umask 077 && printf '== %s\n' "$(date -u '+%Y-%m-%d %H:%M:%S UTC')" >>"$LOG")
  local start
  start=$(wc -l <"$LOG")
  setsid "$python" -I -B -c "$BOOT" "$tree" apply "${BOOTSTRAP_OPTION[@]}" "$@" >>"$LOG" 2>&1 </dev/null &
  child=$!
  trap 'looking_ends "$follower"' INT HUP TERM
  tail --pid="$child" -s 0.2 -n "+$((start + 1))" -f "$LOG" &
  follower=$!
  wait "$child" || status=$?
  wait "$follower" || true
  trap - INT HUP TERM
  return "$status"
}

looking_ends() {
  [[ -z $1 ]] || kill "$1" 2>/dev/null || true
  printf '\nThe installation goes on. Follow it with: tail -f %s\n' "$LOG" || true
  exit 130
}

confirm() {
  case " $* " in *" --unattended "*) return 0 ;; esac
  local answer
  if ! { : </dev/tty; } 2>/dev/null; then
    return 0
  fi
  printf 'Go on? [Y/n] ' >/dev/tty
  read -r answer </dev/tty || return 1
  [[ -z $answer || $answer == [Yy]* ]]
}

# Python 3.11 or newer: the distribution's own, or the newer one that Ubuntu 22.04 has beside it.
find_python() {
  local name
  for name in python3 python3.11; do
    if [[ -x /usr/bin/$name ]] && "/usr/bin/$name" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      printf '/usr/bin/%s\n' "$name"
      return 0
    fi
  done
}

install_python() {
  local name=python3 before after
  [[ -x /usr/bin/python3 ]] && name=python3.11
  command -v apt-get >/dev/null || die "this is not a system with apt" "Use Debian 12 or 13, or Ubuntu 22.04 or 24.04."
  echo "Installing $name ..."
  before=$(dpkg-query -W -f '${Package}\n' | sort)
  apt-get -q update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install "$name" >/dev/null
  after=$(dpkg-query -W -f '${Package}\n' | sort)
  BOOTSTRAP_OPTION=(--bootstrap "$(comm -13 <(echo "$before") <(echo "$after") | tr '\n' ' ')")
}

# Piped: fetch the release this script was made with, check it, and run the copy of this script inside it.
run_release() {
  local url archive folder
  [[ -n $RELEASE_SHA256 ]] || die "this copy of install.sh belongs to a checkout and names no release" \
    "Run it inside the checkout, or pipe the install.sh of a release."
  url=$(source_of "$@")
  [[ $url == https://* ]] || die "--source must be an https address" "For example: --source https://example.org/croft"
  archive=$CACHE/croft-$RELEASE_VERSION.tar.gz
  folder=$CACHE/croft-$RELEASE_VERSION-${RELEASE_SHA256:0:12}
  install -d -m 0700 "$CACHE"
  if ! matches "$archive"; then
    echo "Fetching Croft $RELEASE_VERSION ..."
    rm -f "$archive"
    fetch "${url%/}/croft-$RELEASE_VERSION.tar.gz" "$archive"
    matches "$archive" || { rm -f "$archive"; die "the release is not the one this script was made for" \
      "Nothing of it was run. Fetch install.sh again from a place you trust."; }
  fi
  rm -rf "$folder"
  mkdir -m 0700 "$folder"
  tar --no-same-owner --strip-components=1 -xzf "$archive" -C "$folder"
  exec bash "$folder/install.sh" "$@"
}

source_of() {
  while (($#)); do
    case $1 in
      --source) printf '%s\n' "${2:-}" && return 0 ;;
      --source=*) printf '%s\n' "${1#--source=}" && return 0 ;;
    esac
    shift
  done
}

matches() {
  [[ -f $1 ]] && printf '%s  %s\n' "$RELEASE_SHA256" "$1" | sha256sum --check --status
}

fetch() {
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --proto '=https' --tlsv1.2 --retry 3 --output "$2" "$1"
  elif command -v wget >/dev/null; then
    wget --quiet --https-only --secure-protocol=TLSv1_2 --output-document="$2" "$1"
  else
    die "there is neither curl nor wget" "Install one: apt-get install curl"
  fi
}

wants_only_looking() {
  case " $* " in *" --dry-run "* | *" --help "* | *" -h "*) return 0 ;; esac
  return 1
}

need_root() {
  ((EUID == 0)) || die "the installer needs root" "Run it with sudo."
}

die() {
  printf '\nCroft: %s\n' "$1" >&2
  [[ -z ${2:-} ]] || printf '       %s\n' "$2" >&2
  exit 1
}

main "$@"
