# What the guest of tests/vm.rs does: `ok NAME` for each thing that holds, `FAILED NAME` and what was said for others.
# The machine has one cgroup tree, v2, and an overlay without `lowerdir+` (6.1).
cgroups=/sys/fs/cgroup
store=/store
failures=0

rbuild() { ./rbuild --root "$store" "$@"; }
run() { rbuild run --rm --network none "$@"; }
# Starts a run that the check kills by $!; what it says lies in /tmp/out.
start() { (exec ./rbuild --root "$store" run --rm --network none "$@" >/tmp/out 2>&1) & }

# Runs a function; its first command that fails ends it.
check() {
    start=$(cut -d' ' -f1 /proc/uptime)
    # Not as a condition: the shell would not heed -e then.
    (set -e; "$1") >/tmp/said 2>&1
    if [ $? = 0 ]; then
        echo "ok $1"
    else
        echo "FAILED $1"
        sed 's/^/    /' /tmp/said
        failures=$((failures + 1))
    fi
    echo "# $1: from $start s to $(cut -d' ' -f1 /proc/uptime) s"
}

# expect STATUS COMMAND…: what it says lies in /tmp/out.
expect() {
    expected=$1 status=0
    shift
    "$@" >/tmp/out 2>&1 || status=$?
    cat /tmp/out
    [ "$status" = "$expected" ] || { echo "status $status instead of $expected: $*"; return 1; }
}
said() { grep -q -- "$1" /tmp/out || { echo "this does not say: $1"; return 1; }; }
# Kills a run, and lets the next command clear what it left.
end() {
    kill -9 "$1"
    wait "$1" || true
    rbuild ps >/dev/null
}
# The cgroup of the one container that runs.
its_cgroup() { ls -d $cgroups/rbuild/*/; }
# Waits until a condition holds, 20 s at most.
until_true() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "this never came true: $*"; return 1; }
        usleep 100000
    done
}

doctor_knows_the_machine() {
    expect 0 rbuild doctor
    said '^kernel  *ok  *6\.1\.'
    said '^cgroups  *ok  *v2$'
    said '^overlay layers  *ok  *in one option$'
    for limit in 'limits of memory' 'limits of processors' 'choice of processors' 'limits of processes'; do
        said "^$limit  *ok  *$cgroups\$"
    done
}

import_and_run() {
    rbuild import --change 'CMD ["sh"]' busybox.tar busybox
    expect 0 run busybox echo hello
    said '^hello$'
    expect 7 run busybox sh -c 'exit 7'
}

a_container_sees_its_own_cgroup_only() {
    expect 0 run busybox cat /proc/self/cgroup
    said '^0::/$'
    expect 1 run busybox mkdir $cgroups/own
    said 'Read-only file system'
}

memory_is_limited() {
    expect 0 run --memory 32m busybox dd if=/dev/zero of=/dev/null bs=8M count=1
    expect 137 run --memory 32m busybox dd if=/dev/zero of=/dev/null bs=64M count=1
    # Not only the one process: all that share the limit.
    expect 137 run --memory 32m busybox sh -c 'dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived'
    ! said survived >/dev/null
}

processes_are_limited() {
    expect 2 run --pids-limit 20 busybox sh -c 'i=0; while [ $i -lt 50 ]; do sleep 60 & i=$((i+1)); done'
    said "can't fork"
    expect 0 run --pids-limit 60 busybox sh -c 'i=0; while [ $i -lt 50 ]; do sleep 0 & i=$((i+1)); done; wait'
}

a_fork_bomb_stays_within_its_limit() {
    start --pids-limit 30 busybox sh -c 'bomb() { bomb | bomb & sleep 60; }; bomb'
    bomb=$!
    full() { [ "$(sed -n 's/^max //p' $cgroups/rbuild/*/pids.events 2>/dev/null || echo 0)" -gt 0 ] 2>/dev/null; }
    until_true full
    running=$(cat "$(its_cgroup)/pids.current")
    echo "$running processes run"
    [ "$running" -le 30 ]
    end $bomb
}

# The processor time that a busy loop of 4 s gets, in thousandths of those 4 s.
busy() {
    start "$@" busybox sh -c 'while :; do :; done'
    loop=$!
    made() { its_cgroup >/dev/null 2>&1; }
    until_true made
    folder=$(its_cgroup)
    used() { sed -n 's/^usage_usec //p' "$folder/cpu.stat"; }
    now() { tr -d . </proc/uptime | cut -d' ' -f1; }
    usleep 500000
    used_before=$(used) before=$(now)
    sleep 4
    thousandths=$((($(used) - used_before) / (($(now) - before) * 10)))
    end $loop
}

processor_time_is_limited() {
    busy
    echo "without a limit: $thousandths of 1000"
    [ $thousandths -gt 600 ]
    busy --cpus 0.2
    echo "with --cpus 0.2: $thousandths of 1000"
    [ $thousandths -gt 80 ] && [ $thousandths -lt 300 ]
}

every_limit_arrives_in_its_file() {
    start --memory 64m --memory-swap 96m --memory-reservation 16m --cpus 1.5 --cpu-shares 1024 --cpuset-cpus 1 \
        --pids-limit 99 busybox sh -c 'nproc; sleep 60'
    sleeper=$!
    started() { [ -s /tmp/out ]; }
    until_true started
    for pair in memory.max=67108864 memory.swap.max=33554432 memory.low=16777216 'cpu.max=150000 100000' \
        cpu.weight=39 cpuset.cpus=1 pids.max=99; do
        found=$(cat "$(its_cgroup)/${pair%%=*}")
        echo "$pair: $found"
        [ "$found" = "${pair#*=}" ]
    done
    [ "$(cat /tmp/out)" = 1 ]
    end $sleeper
}

a_step_of_a_build_is_limited() {
    mkdir -p /tmp/limits
    echo 'FROM busybox
RUN dd if=/dev/zero of=/dev/null bs=64M count=1' >/tmp/limits/Containerfile
    expect 137 rbuild build --network none --memory 32m /tmp/limits
    said 'it ran out of memory'
    expect 0 rbuild build --network none --memory 128m /tmp/limits
    echo 'FROM busybox
RUN i=0; while [ $i -lt 50 ]; do sleep 60 & i=$((i+1)); done' >/tmp/limits/Containerfile
    expect 2 rbuild build --network none --pids-limit 20 /tmp/limits
    said "can't fork"
}

# Of the runs above, some of which were killed.
no_cgroup_is_left() {
    find $cgroups -mindepth 1 -type d -path '*rbuild/*' | tee /tmp/left
    [ ! -s /tmp/left ]
}

a_whole_job() {
    mkdir -p '/tmp/job/odd, name: \ "x"'
    cd /tmp/job
    echo content >'odd, name: \ "x"/file'
    echo 'FROM busybox AS first
RUN mkdir /made && seq 1000 >/made/list && ln /made/list /made/hard && chown 7:8 /made/list
FROM busybox
COPY --from=first /made /made
COPY . /context/
RUN rm /bin/vi && wc -l </made/list >/lines
CMD ["cat", "/lines"]' >Containerfile
    cd - >/dev/null
    store='/odd, store: \ "x"'
    rbuild import --change 'CMD ["sh"]' busybox.tar busybox
    rbuild build --network none -t job /tmp/job
    expect 0 run job
    said '^1000$'
    expect 0 run job sh -c 'cat /context/odd*/file; stat -c %u:%g:%h /made/list; ls /bin/vi || true'
    said '^content$'
    said '^7:8:2$'
    said 'No such file'
    rbuild save -o /tmp/job.tar job
    id=$(rbuild inspect --format '{{.Id}}' job)
    store=/store-of-another
    rbuild load -i /tmp/job.tar
    [ "$(rbuild inspect --format '{{.Id}}' job)" = "$id" ]
    expect 0 run job
    said '^1000$'
}

# many BASE FROM TO: an image of so many layers above the base; its last step and a run look through all of them.
many() {
    folder=/tmp/many-$3
    mkdir -p $folder
    echo "FROM $1" >$folder/Containerfile
    for number in $(seq "$2" "$3"); do
        echo "$number" >$folder/file-$number
        echo "COPY file-$number /layers/" >>$folder/Containerfile
    done
    echo 'RUN ls /layers | wc -l >/count' >>$folder/Containerfile
    rbuild build --quiet --network none -t many-$3 $folder
    expect 0 run many-$3 sh -c 'cat /count; ls /layers | wc -l'
    [ "$(cat /tmp/out)" = "$3
$3" ]
}
an_image_of_40_layers() { many busybox 1 40; }
# More than docker's 125.
an_image_of_130_layers() { many many-40 41 130; }

as_user() { su user -c "cd /home/user && $*"; }
mine() { as_user "./rbuild --root store $*"; }

a_user_without_root_builds_and_runs() {
    echo 'user:x:1000:1000::/home/user:/bin/sh' >>/etc/passwd
    echo 'user:x:1000:' >>/etc/group
    echo 'user:100000:65536' | tee /etc/subuid >/etc/subgid
    mkdir -p /home/user/context
    cp rbuild busybox.tar /home/user/
    echo 'FROM busybox
RUN adduser -D -u 5 five && touch /file && chown 5:5 /file' >/home/user/context/Containerfile
    chown -R 1000:1000 /home/user
    mine import busybox.tar busybox
    mine build --network none -t own context
    expect 0 mine run --rm --network none own stat -c %u:%g /file
    said '^5:5$'
    expect 0 mine doctor
    said 'delegate'
}

# Documented: a limit that can't be kept is an error, but for processes, which are counted by user.
a_user_without_a_cgroup_is_told() {
    expect 125 mine run --rm --network none --memory 32m busybox true
    said 'memory'
    said 'delegated'
    expect 2 mine run --rm --network none --pids-limit 20 busybox sh -c "'for i in \$(seq 50); do sleep 9 & done'"
    said "can't fork"
}

# delegated NAME WORDS…: in a cgroup of its own, as `systemd-run --user --scope -p Delegate=yes` makes one.
delegated() {
    own=$cgroups/delegated-$1
    shift
    mkdir $own
    chown 1000:1000 $own $own/cgroup.procs $own/cgroup.subtree_control
    sh -c "echo 0 >$own/cgroup.procs; exec su user -c 'cd /home/user && ./rbuild --root store run --rm --network none $*'"
}
a_user_with_a_delegated_cgroup_is_limited() {
    echo '+memory +pids +cpu' >$cgroups/cgroup.subtree_control
    expect 0 delegated first --memory 32m busybox dd if=/dev/zero of=/dev/null bs=8M count=1
    expect 137 delegated second --memory 32m busybox dd if=/dev/zero of=/dev/null bs=64M count=1
    expect 2 delegated third --pids-limit 20 busybox sh -c '"for i in \$(seq 50); do sleep 9 & done"'
    said "can't fork"
    # Beside a shell the kernel would let `pids` on to children that take threads only.
    expect 0 delegated fourth --pids-limit 20 busybox sh -c '"for i in \$(seq 50); do sleep 9 & done"; true'
    said "can't fork"
    find $cgroups/delegated-* -mindepth 2 -type d | tee /tmp/left
    [ ! -s /tmp/left ]
}

for name in doctor_knows_the_machine import_and_run a_container_sees_its_own_cgroup_only memory_is_limited \
    processes_are_limited a_fork_bomb_stays_within_its_limit processor_time_is_limited \
    every_limit_arrives_in_its_file a_step_of_a_build_is_limited no_cgroup_is_left a_whole_job \
    an_image_of_40_layers an_image_of_130_layers a_user_without_root_builds_and_runs \
    a_user_without_a_cgroup_is_told a_user_with_a_delegated_cgroup_is_limited; do
    check $name
done
[ $failures = 0 ]
