#!/bin/sh
# Unpacks packages of the distribution, with what they need beyond this system, into the workspace's home. Without root.
#
#   distribution.sh NEED PLACE PACKAGE...
#
# NEED: bytes that must be free. PLACE: where the tool lies, beneath the tools' folder. Run where the programs will run (on the
# machine, or in the IDE's container), so that libraries fit. It says what appliance/host/tools.py says, in lines of JSON, and
# leaves .unpacked with .packages and .system in it, for that one to take over.
#
# Rules: sources, keys and the check of signatures are the system's and apt's own. Nothing that was fetched is started, no script
# of a package either. When nobody reads any more it ends, and nothing is left.
set -u
export LC_ALL=C
trap '' PIPE
need=$1 place=$2
shift 2
tools=$HOME/.local/share/croft/tools
mkdir -p "$tools" && cd "$tools" || exit 1
exec 9>.lock 2>/dev/null # both: the lock, and no words of the shell's own

say() { printf '%s\n' "$1" || exit 1; }

fail() {
    words=$(printf '%s' "$2" | tr -s '[:space:]' ' ' | tr '\042\134' "'/" | tr -cd ' -~' | tail -c 400)
    say "{\"event\": \"failed\", \"code\": \"$1\", \"message\": \"$words\"}"
    exit 1
}

# What apt said, and what it means where that is known.
explain() {
    words=$(cat .apt/updating .apt/said)
    case $words in
    *"No space left"*) fail disk_full "$words" ;;
    *"Hash Sum mismatch"* | *NO_PUBKEY* | *BADSIG* | *EXPKEYSIG* | *"not signed"*) fail altered "$words" ;;
    *"Failed to fetch"* | *"Could not "* | *"Temporary failure"*) fail unreachable "$words" ;;
    *"Unable to locate"* | *"no installation candidate"*) fail absent "$words" ;;
    *) fail failed "$words" ;;
    esac
}

apt='' whole=''
clean() {
    trap - EXIT
    [ -z "$apt" ] || { kill "$apt" && wait "$apt"; }
    rm -rf .apt
    [ -n "$whole" ] || rm -rf .unpacked
}

# Runs apt-get with bytes as they come: of FOLDER, out of TOTAL (0: nobody knows).
watched() {
    folder=$1 total=$2
    shift 2
    apt-get -c .apt/conf "$@" >.apt/said 2>&1 </dev/null 9>&- &
    apt=$!
    while kill -0 "$apt"; do
        here=$(du -s --apparent-size -B1 "$folder" | cut -f 1)
        [ "$total" -eq 0 ] || [ "$here" -le "$total" ] || here=$total
        say "{\"event\": \"progress\", \"phase\": \"fetching\", \"current\": $here, \"total\": $total}"
        sleep 0.3
    done
    wait "$apt"
    status=$?
    apt=''
    return "$status"
}

for program in apt-get dpkg-deb flock; do
    command -v "$program" >/dev/null || fail no_apt "this system has no $program"
done
flock -n 9 || fail busy "another toolchain is being worked on"
trap clean EXIT
trap 'exit 1' HUP INT TERM
free=$(df --output=avail -B1 . | tail -n 1)
[ "$free" -ge "$need" ] || fail disk_full "$((need >> 20)) MiB of disk are needed, $((free >> 20)) MiB are free"
rm -rf .apt .unpacked
mkdir -p .apt/lists/partial .apt/archives/partial .unpacked

# Last read, so it wins over the system's own: an unsigned source counts for nothing, and hooks of others stay out of it.
cat >.apt/conf <<END
Dir::State "$tools/.apt";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$tools/.apt";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "3";
Debug::NoLocking "true";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
END

watched .apt/lists 0 update -q # a source that fails matters only if the packages cannot be had without it
mv .apt/said .apt/updating
apt-get -c .apt/conf install --print-uris -qq --no-install-recommends -- "$@" >.apt/plan 2>.apt/said </dev/null || explain
[ -s .apt/plan ] || fail present "all of $* is part of this system"
cut -d ' ' -f 2 .apt/plan | sort >.apt/packages
if ! cmp -s .apt/packages "$place/.packages"; then
    total=$(awk '{ sum += $3 } END { printf "%d", sum }' .apt/plan)
    watched .apt/archives "$total" install --download-only --yes -q --no-install-recommends -- "$@" || explain
    for package in .apt/archives/*.deb; do
        dpkg-deb -x "$package" .unpacked 2>.apt/said </dev/null || explain
        # Also asks whether anybody is still there.
        say "{\"event\": \"progress\", \"phase\": \"unpacking\", \"current\": $total, \"total\": $total}"
    done
    mv .apt/packages .unpacked/.packages
    # shellcheck source=/dev/null
    (. /etc/os-release && printf '%s %s' "$ID" "${VERSION_ID-}") >.unpacked/.system
    whole=1
fi
say '{"event": "done"}'
