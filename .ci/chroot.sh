# Sourced by .ci/pythons and .ci/bare, which set `debian`, the name of what they make: chroots of Debian, made from where
# this machine's own packages come from, and kept in the user's cache. Needs root on a Debian, and debootstrap; otherwise the exit code is 3.
# shellcheck shell=bash
cache="${XDG_CACHE_HOME:-$HOME/.cache}/flux-tools"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

give_up() {
    tail -n 30 "$log" >&2
    echo ".ci/${0##*/}: no ${debian:?} could be made: $*" >&2
    exit 3
}

mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1
}

# make_root ROOT SUITE PACKAGE,…
make_root() {
    [ "$(id -u)" = 0 ] || give_up "only root can"
    command -v debootstrap >/dev/null || give_up "install debootstrap"
    [ -n "$(mirror)" ] || apt-get -qq update >"$log" 2>&1 || true
    [ -n "$(mirror)" ] || give_up "apt knows no mirror of Debian"
    rm -rf "$1.new"
    timeout -k 10 600 debootstrap --variant=minbase --include="$3" "$2" "$1.new" "$(mirror)" >"$log" 2>&1 ||
        give_up "debootstrap failed, its last lines are above"
    mv "$1.new" "$1"
}

# The network, the registry and the authorities that are trusted, as out here.
copy_surroundings() {
    local file
    mkdir -p "$1/dev/pts"
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt \
        /usr/local/share/ca-certificates/*.crt "$HOME/.config/pip" "$HOME/.m2/settings.xml"; do
        if [ -e "$file" ]; then mkdir -p "$1${file%/*}" && cp -rL "$file" "$1${file%/*}/"; fi
    done
}

# inside ROOT COMMAND…: in its folder /flux, with terminals where mounting is allowed.
isolated=(unshare --mount)
unshare --mount true 2>/dev/null || isolated=()
inside() {
    "${isolated[@]}" sh -c '
        if [ "$1" = --isolated ]; then
            shift
            mount -t proc proc "$0/proc"
            mount -t devpts -o newinstance,ptmxmode=666 devpts "$0/dev/pts"
            mount --bind "$0/dev/pts/ptmx" "$0/dev/ptmx"
        fi
        exec chroot "$0" sh -c "cd /flux && exec \"\$@\"" sh "$@"' "$1" ${isolated:+--isolated} "${@:2}"
}
