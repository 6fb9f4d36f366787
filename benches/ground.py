"""What every measuring script does: run a command that must succeed, clear a folder, tell how far it is."""
import os, subprocess, sys


def private_mounts():
    """Starts the script again in a mount namespace of its own, as root."""
    if os.geteuid() != 0:
        raise SystemExit(f"{sys.argv[0]} needs root: it mounts a loop file and starts dockerd")
    if os.environ.get("RBUILD_BENCH_NAMESPACE") != "1":
        os.environ["RBUILD_BENCH_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def do(words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stderr.decode(errors='replace')[-2000:]}")


def clear(folder):
    """Removes a tool's folder; what it mounted there is unmounted first."""
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4] for line in table]
    for point in sorted((point for point in points if point.startswith(folder + "/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False)
    subprocess.run(["rm", "-rf", folder], check=True)


def say(line):
    print(line, file=sys.stderr, flush=True)


def number(seconds):
    return "–" if seconds is None else f"{seconds:.3f}" if seconds >= 0.1 else f"{seconds:.4f}"
