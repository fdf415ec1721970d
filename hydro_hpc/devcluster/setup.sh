#!/bin/sh
# Installs the Debian or Ubuntu packages that the embedded cluster needs, and lets none of them start or
# enable a daemon. Does nothing, and needs no network, when they are there. Asks no questions.
#
# A service that the host had before is left as it is: running, stopped, enabled or not. Only services
# that come new with these packages are kept from starting (by /usr/sbin/policy-rc.d, which is put back
# as it was at the end, also after ^C) and are disabled.
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
PATH=/usr/sbin:/usr/bin:/sbin:/bin

POLICY=/usr/sbin/policy-rc.d
SAVED=$POLICY.before-hydro
UNITS=/usr/sbin/.hydro-services-before # is there only during an installation, or after one was killed
MARK="Written by hydro's setup.sh"

fail() {
    echo "hydro: $1" >&2
    exit 1
}

# $1: a package, or the name that SchedMD's own packages have for it behind a `|`.
is_installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "${1%|*}" "${1#*|}" 2>/dev/null | grep -qx installed
}

# The system's Python if it is new enough, else the release that stands beside it.
python_packages() {
    if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo python3 python3-venv python3-dev
    else
        echo python3 python3.11 python3.11-venv python3.11-dev
    fi
}

needed() {
    # libpmix-dev: Slurm opens libpmix.so by its unversioned name. g++: DeepSpeed compiles its CPU ops.
    echo "slurmctld|slurm-smd-slurmctld slurmd|slurm-smd-slurmd slurm-client|slurm-smd-client" \
        "libslurm-dev|slurm-smd-dev munge libpmix-dev lua5.4 make gcc g++ libc6-dev util-linux" \
        "$(python_packages)"
}

missing() {
    list=
    for package in $(needed); do
        is_installed "$package" || list="$list ${package%|*}"
    done
    echo "${list# }"
}

# All services that there are, by the names that policy-rc.d is asked about.
list_services() {
    for unit in /lib/systemd/system/*.service /lib/systemd/system/*.socket \
        /lib/systemd/system/*.timer /etc/systemd/system/*.service /etc/init.d/*; do
        [ -e "$unit" ] || continue
        name=${unit##*/}
        echo "${name%.service}"
    done | sort -u
}

write_policy() {
    cat >"$POLICY.new" <<END
#!/bin/sh
# $MARK for the time of one installation: services of before are decided on as before.
while [ \$# -gt 0 ]; do case "\$1" in --*) shift ;; *) break ;; esac; done
grep -qxF -e "\${1%.service}" $UNITS || exit 101
if [ -x $SAVED ]; then exec $SAVED "\$@"; fi
END
    chmod 0755 "$POLICY.new"
    mv -f "$POLICY.new" "$POLICY"
}

put_policy_back() {
    if [ -e "$SAVED" ] || [ -L "$SAVED" ]; then
        mv -f "$SAVED" "$POLICY"
    elif grep -qsF "$MARK" "$POLICY"; then
        rm -f "$POLICY"
    fi
    rm -f "$UNITS" "$UNITS.new" "$POLICY.new"
}

disable_new_services() {
    for name in $(list_services | grep -vxF -f "$UNITS" || true); do
        unit=$name
        case $name in *.socket | *.timer) ;; *) unit=$name.service ;; esac
        if command -v systemctl >/dev/null && [ -e "/lib/systemd/system/$unit" ]; then
            systemctl --quiet disable "$unit" 2>/dev/null || true
        fi
        if [ -x "/etc/init.d/$name" ]; then
            update-rc.d "$name" disable >/dev/null || true
        fi
    done
}

finish() {
    status=$?
    trap '' HUP INT TERM
    disable_new_services
    put_policy_back
    exit "$status"
}

# Runs a command and shows its output only if it fails.
quietly() {
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null && status=0 || status=$?
    [ "$status" -eq 0 ] || tail -n 20 "$log" >&2
    rm -f "$log"
    return "$status"
}

# Each step can be the last one of a run that is killed: the next run then finds what it needs to go on.
deny_new_services() {
    if [ ! -e "$UNITS" ]; then
        list_services >"$UNITS.new"
        mv -f "$UNITS.new" "$UNITS"
    fi
    grep -qsF "$MARK" "$POLICY" && return
    if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then mv -f "$POLICY" "$SAVED"; fi
    write_policy
}

install_packages() {
    wait_for_lock=DPkg::Lock::Timeout=120
    quietly dpkg --configure -a || true
    quietly apt-get -q -o $wait_for_lock update ||
        echo "hydro: the package lists could not be renewed; trying with those at hand" >&2
    # --no-remove: never at the cost of what the host has. One argument per package:
    # shellcheck disable=SC2046
    quietly apt-get -q -y --no-install-recommends --no-remove -o $wait_for_lock \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install $(missing) ||
        fail "these packages could not be installed: $(missing); see the lines above"
}

main() {
    command -v apt-get >/dev/null ||
        fail "this is neither Debian nor Ubuntu; install by hand what is named like: $(needed)"
    packages=$(missing)
    [ -n "$packages" ] || [ -e "$UNITS" ] || exit 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "run as root; these packages are missing: $packages"
        exec sudo -- /bin/sh "$0"
    fi
    trap finish EXIT
    trap 'exit 130' HUP INT TERM
    deny_new_services
    [ -z "$packages" ] || echo "hydro: installing $packages" >&2
    [ -z "$packages" ] || install_packages
}

main
