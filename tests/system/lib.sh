# shellcheck shell=bash
# What tests/systemd, tests/packages, tests/deploy and cross/ share: installing what is missing, a small Debian of their own, and a real
# systemd in it. Source it. Everything lives below target/system; the machine's own root is never booted nor written.

here_system=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here_system/../.." && pwd)
system=$root/target/system
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

skipped() { # why
  printf 'SKIPPED: %s\n' "$1"
  exit 77
}

fail() { # what
  printf 'FAILED: %s\n' "$1"
  exit 1
}

passed() { printf 'ok: %s\n' "$1"; }

# Installs a command's package from apt; false when that cannot be done.
have() { # command, package
  command -v "$1" >/dev/null && return 0
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 && command -v "$1" >/dev/null && return 0
  apt-get update >/dev/null 2>&1 && apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1
  command -v "$1" >/dev/null
}

need() { # command, package
  have "$1" "$2" || skipped "there is no $1, and apt cannot install $2"
}

# Tries until it succeeds, for so many seconds.
until_true() { # seconds, command…
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# A small Debian of this machine's release, made once; its path is in $base.
debian() {
  local suite mirror
  [ "$(id -u)" = 0 ] || skipped 'a Debian of its own needs root'
  need debootstrap debootstrap
  suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" 2>/dev/null | head -n 1)
  [ -n "$mirror" ] || skipped "apt knows no mirror of $suite"
  base=$system/$suite
  [ -f "$base/.done" ] && return 0
  rm -rf "$base"
  mkdir -p "$base"
  debootstrap --variant=minbase --include=systemd,dbus,procps,libfaketime \
    "$suite" "$base" "$mirror" >"$base.log" 2>&1 || { tail -n 5 "$base.log"; skipped "debootstrap of $suite does not work here"; }
  rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
  : >"$base/.done"
}

# A root to change at will: what is written lies beside it, and goes with it. Its path is in $merged.
layer() { # base, name
  local at=$system/run/$2
  [ -d "$at" ] && drop_layer "$2"
  mkdir -p "$at/upper" "$at/work" "$at/merged"
  # A layer over a layer is not possible everywhere; then it is copied.
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$at/upper,workdir=$at/work" "$at/merged" 2>/dev/null || cp -a "$1/." "$at/merged/"
  merged=$at/merged
}

drop_layer() { # name
  local at=$system/run/$1
  mountpoint -q "$at/merged" && umount -l "$at/merged"
  rm -rf --one-file-system "$at"
}

# Boots a root: systemd as process 1 with namespaces of its own, network included. Ends with end_boot.
boot() { # root
  booted=$1
  mkdir -p "$booted/etc/systemd/system"
  rm -f "$booted/etc/systemd/system/default.target"
  ln -s /lib/systemd/system/multi-user.target "$booted/etc/systemd/system/default.target"
  : >"$booted/etc/machine-id"
  unshare --fork --kill-child=KILL --pid --mount --cgroup --uts --ipc --net --propagation private \
    "$here_system/init" "$booted" >"$system/boot.log" 2>&1 &
  unshared=$!
  # Process 1 as it is seen from here.
  until_true 10 pgrep -P "$unshared" || { cat "$system/boot.log"; return 1; }
  init=$(pgrep -P "$unshared")
  until_true 60 is_up || { cat "$system/boot.log"; return 1; }
}

is_up() {
  local state
  state=$(inside systemctl is-system-running)
  [ "$state" = running ] || [ "$state" = degraded ]
}

inside() { # command…
  nsenter --target "$init" --mount --pid --net --uts --ipc --cgroup --root --wd=/ -- "$@"
}

# With this machine's programs, in its network.
beside() { # command…
  nsenter --target "$init" --net -- "$@"
}

end_boot() {
  [ -n "${unshared:-}" ] || return 0
  kill -KILL "$unshared" 2>/dev/null
  wait "$unshared" 2>/dev/null
  unshared=
}
