uname -r; cat /sys/fs/cgroup/cgroup.controllers; cat /proc/uptime
./rbuild doctor
./rbuild import busybox.tar busybox
./rbuild run --rm --network none busybox echo hi
cat /proc/uptime
exit 3
