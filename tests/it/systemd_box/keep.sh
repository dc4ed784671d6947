# keep.sh TRIPLOCK UNITS: makes what a box is made of (a control group, and an overlay of / in a mount namespace of its
# own), says where, and keeps it until its input ends: when the test drops the box, or is killed. Then everything that
# is in the control group is killed, and all of it removed.
set -eu
trap '' INT TERM HUP
triplock=$1 units=$2

directory=$(mktemp -d)
group=
clean_up() {
  if [ -n "$group" ]; then
    echo 1 >"$group/cgroup.kill" || :
    for _ in $(seq 1000); do
      find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || :
      [ -e "$group" ] || break
      sleep 0.01
    done
  fi
  umount -l "$directory" 2>/dev/null || :
  rmdir "$directory"
}
trap clean_up EXIT

# Of the unified hierarchy, wherever it is; systemd would move every process of a group that it shares with others.
for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup; do
  [ ! -e "$hierarchy/cgroup.procs" ] || break
done
if ! mkdir "$hierarchy/triplock-box-$$" 2>/dev/null; then
  echo "no control group can be made in $hierarchy" >&2
  exit 1
fi
group=$hierarchy/triplock-box-$$
if [ ! -e "$group/cgroup.kill" ]; then
  echo "$hierarchy has no cgroup.kill (Linux 5.14, control groups of version 2)" >&2
  exit 1
fi

mount -t tmpfs -o mode=755 tmpfs "$directory"
cd "$directory"
mkdir upper work root state
# Wherever / itself is an overlay (in a container), this is a second layer on it, which the kernel allows; not a third.
mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" root

# The machine's own services and jobs are no part of it.
rm -rf root/etc/systemd/system/*.wants root/etc/systemd/system/triplock* root/etc/triplock root/var/lib/triplock \
  root/var/lib/systemd/timers root/var/log/journal root/etc/cron.d
mkdir -p root/var/log/journal root/etc/triplock/jobs.d root/usr/lib/systemd/system root/usr/lib/sysusers.d root/usr/lib/tmpfiles.d
# Where a package would put them.
cp "$units"/*.service "$units"/*.timer root/usr/lib/systemd/system/
cp "$units"/sysusers.d/* root/usr/lib/sysusers.d/
cp "$units"/tmpfiles.d/* root/usr/lib/tmpfiles.d/
# (A mount, as the copy would take the memory of all its debugging information.)
: >root/usr/bin/triplock
mount --bind "$triplock" root/usr/bin/triplock
# No overlay: on one, /proc/locks has another device than stat(2).
mkdir -p root/var/lib/triplock
mount --bind state root/var/lib/triplock
cat >root/etc/systemd/system/box.target <<'UNIT'
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
UNIT

echo "$directory $group"
cat >/dev/null
