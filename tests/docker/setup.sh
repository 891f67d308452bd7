#!/usr/bin/env bash
# Brings up what the Docker tests need on a fresh Debian machine: the engine, Compose v2, a registry, a base root file system.
#
#   tests/docker/setup.sh up      install what is missing, start dockerd if no engine answers
#   tests/docker/setup.sh down    stop the dockerd that `up` started, and nothing else
#
# Rule: repeatable, and never touches an engine it did not start. The pid it started is kept in $CROFT_TEST_CACHE/dockerd.pid.
set -euo pipefail

CACHE=${CROFT_TEST_CACHE:-/var/tmp/croft-tests}
PLUGINS=/usr/local/libexec/docker/cli-plugins
COMPOSE_VERSION=2.26.1-4      # Debian trixie's; bookworm carries only the old 1.29 (needs libc >= 2.34, bookworm has 2.36)
BASE_PACKAGES=ca-certificates,curl,git,libcap2-bin,libgomp1,libzstd1,procps,python3,wget
PID_FILE=$CACHE/dockerd.pid
SOCKET=/var/run/docker.sock

say() { printf 'docker tests: %s\n' "$*" >&2; }

answers() { [[ "$(curl -sf --max-time 5 --unix-socket "$SOCKET" http://localhost/_ping 2>/dev/null)" == OK ]]; }

ensure_packages() {
    local missing=() package
    for package in docker.io docker-registry debootstrap nftables iptables curl ca-certificates; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    # Without systemd a package must not start services behind our back.
    [[ -d /run/systemd/system || -e /usr/sbin/policy-rc.d ]] || {
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The mirror this machine already uses for its main suite, deb822 or one-line style.
mirror() {
    local found
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+\/debian)\/?$/\1/p; s/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+\/debian)\/?[[:space:]].*/\2/p' |
        head -n 1)
    [[ -n $found ]] || { say "cannot fetch Compose: no Debian mirror among this machine's apt sources"; return 1; }
    printf '%s\n' "$found"
}

# apt fetches and checks signatures, with lists and caches of its own: the machine's apt configuration stays as it is.
fetch_compose() {
    local apt=$CACHE/apt options
    mkdir -p "$apt"/{lists/partial,archives/partial,parts}
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$(mirror)" >"$apt/sources.list"
    : >"$apt/status"
    options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts" -o "Dir::State::lists=$apt/lists"
             -o "Dir::State::status=$apt/status" -o "Dir::Cache::archives=$apt/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
             -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update -qq
    (cd "$apt" && apt-get "${options[@]}" download -qq "docker-compose=$COMPOSE_VERSION")
    rm -rf "$apt/unpacked"
    dpkg -x "$apt"/docker-compose_*.deb "$apt/unpacked"
    install -D -m 755 "$apt/unpacked/usr/libexec/docker/cli-plugins/docker-compose" "$PLUGINS/docker-compose"
    rm -rf "$apt"
}

ensure_compose() {
    local folder
    for folder in /usr/local/lib /usr/local/libexec /usr/lib /usr/libexec; do
        [[ -x $folder/docker/cli-plugins/docker-compose ]] && return 0
    done
    say "fetching Compose $COMPOSE_VERSION"
    fetch_compose
}

# Some kernels offer only one of the two iptables back ends for nat; dockerd takes the first `iptables` on its PATH.
iptables_folder() {
    local name folder=$CACHE/iptables
    iptables -w -t nat -S >/dev/null 2>&1 && return 0
    mkdir -p "$folder"
    for name in iptables ip6tables; do ln -sf "$(command -v "$name-legacy")" "$folder/$name"; done
    printf '%s:' "$folder"
}

start_engine() {
    mkdir -p "$CACHE/docker"
    say "starting dockerd (log: $CACHE/dockerd.log)"
    # Two tries per layer: with the usual five, a test that cuts a pull waits for more than a minute.
    PATH="$(iptables_folder)$PATH" setsid nohup dockerd --data-root "$CACHE/docker" --live-restore \
        --max-download-attempts 2 --pidfile "$CACHE/dockerd.engine.pid" --host "unix://$SOCKET" >>"$CACHE/dockerd.log" 2>&1 </dev/null &
    printf '%s\n' $! >"$PID_FILE"
}

ensure_engine() {
    local deadline=$((SECONDS + 60))
    answers && return 0
    start_engine
    until answers; do
        ((SECONDS < deadline)) || { say "dockerd does not answer:"; tail -n 20 "$CACHE/dockerd.log" >&2; return 1; }
        sleep 0.2
    done
}

# The root file system all test images stand on: plain debootstrap, without package lists and manuals.
ensure_base() {
    local root=$CACHE/rootfs
    [[ -s $CACHE/base.tar && $(cat "$CACHE/base.packages" 2>/dev/null) == "$BASE_PACKAGES" ]] && return 0
    say "making the base root file system"
    rm -rf "$root"
    debootstrap --variant=minbase --include="$BASE_PACKAGES" bookworm "$root" "$(mirror)" >"$CACHE/debootstrap.log" 2>&1 ||
        { tail -n 20 "$CACHE/debootstrap.log" >&2; return 1; }
    tar -C "$root" --exclude='./var/lib/apt/lists/*' --exclude='./var/cache/apt/*' --exclude='./usr/share/doc/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='*/__pycache__/*' -cf "$CACHE/base.tar.part" .
    mv "$CACHE/base.tar.part" "$CACHE/base.tar"
    printf '%s\n' "$BASE_PACKAGES" >"$CACHE/base.packages"
    rm -rf "$root"
}

stop_engine() {
    local pid
    [[ -s $PID_FILE ]] || return 0
    pid=$(<"$PID_FILE")
    if [[ -r /proc/$pid/comm && $(<"/proc/$pid/comm") == dockerd ]]; then
        kill "$pid"
        # live-restore leaves containers and containerd behind; tests remove their own containers first.
        while [[ -d /proc/$pid ]]; do sleep 0.1; done
    fi
    rm -f "$PID_FILE"
}

main() {
    ((EUID == 0)) || { say "needs root (apt-get and dockerd)"; exit 1; }
    mkdir -p "$CACHE"
    case ${1:-up} in
        up) ensure_packages; ensure_compose; ensure_engine; ensure_base ;;
        down) stop_engine ;;
        *) say "up or down"; exit 2 ;;
    esac
}

main "$@"
