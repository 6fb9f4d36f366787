"""The tools that are measured: how each one is started, told what to do, and stopped.

Every tool keeps its whole state below one folder on the loop disk, so a fresh folder is a fresh tool. A method
returns the words of a command that succeeds when the work is done; who measures runs it.
"""
import os, subprocess, time

DOCKER = "/usr/bin/docker"


class Rbuild:
    name = "rbuild"

    def __init__(self, binary):
        self.binary = binary
        help_text = subprocess.run([binary, "build", "--help"], capture_output=True, text=True).stdout
        self.host_network = ["--network", "host"] if "--network" in help_text else []

    def start(self, folder):
        self.base = [self.binary, "--root", folder + "/store"]

    def stop(self):
        pass

    def version(self):
        return text(self.binary, "--version")

    def import_tar(self, tar, name):
        return self.base + ["import", tar, name]

    def load(self, archives):
        return self.base + ["load", "-i", archives.best_for_all]

    def build(self, context, tag, *flags):
        return self.base + ["build", *self.host_network, *flags, "-f", context + "/Dockerfile", "-t", tag, context]

    def run_true(self, network):
        return self.base + ["run", "--rm", "--network", network, "busybox", "true"]

    def save(self, name, path):
        return self.base + ["save", "--format", "docker-archive", "-o", path, name]

    def save_gzip(self, name, path):
        return self.base + ["save", "--format", "oci-archive", "-o", path, name]


class Docker:
    """Debian's docker.io, its daemon started here; builds go to the BuildKit inside it."""
    name = "docker"

    def start(self, folder):
        home = folder + "/docker"
        os.makedirs(home)
        self.base = ["env", "DOCKER_BUILDKIT=1", DOCKER, "-H", f"unix://{home}/sock"]
        self.log = open(home + "/log", "w")
        self.daemon = subprocess.Popen(
            ["dockerd", "--data-root", home + "/data", "--exec-root", home + "/exec", "--pidfile", home + "/pid",
             "-H", f"unix://{home}/sock", "--iptables=false", "--ip6tables=false", "--bridge=none",
             "--storage-driver", "overlay2"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(300):
            if subprocess.run(self.base + ["info"], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit("dockerd does not answer:\n" + open(home + "/log").read()[-2000:])

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait()
        self.log.close()

    def version(self):
        return text(DOCKER, "--version")

    def import_tar(self, tar, name):
        return self.base + ["import", tar, name]

    def load(self, archives):
        return self.base + ["load", "-i", archives.docker_form]

    def build(self, context, tag, *flags):
        return self.base + ["build", "--network", "host", "--progress", "plain", *flags, "-t", tag, context]

    def run_true(self, network):
        return self.base + ["run", "--rm", "--network", network, "busybox", "true"]

    def save(self, name, path):
        return self.base + ["save", "-o", path, name]


class Podman:
    name = "podman"

    def start(self, folder):
        self.base = ["podman", "--root", folder + "/podman", "--runroot", folder + "/podman-run",
                     "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]

    def stop(self):
        pass

    def version(self):
        return text("podman", "--version")

    def import_tar(self, tar, name):
        return self.base + ["import", tar, name]

    def load(self, archives):
        return self.base + ["load", "-q", "-i", archives.best_for_all]

    def run_true(self, network):
        # Where the machine forbids raising limits, podman's defaults can't be set.
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        return self.base + ["run", "--rm", "--network", network, *limits, "busybox", "true"]

    def save(self, name, path):
        return self.base + ["save", "-q", "--format", "docker-archive", "-o", path, name]

    def save_gzip(self, name, path):
        return self.base + ["save", "-q", "--format", "oci-archive", "-o", path, name]


class Buildah:
    name = "buildah"

    def start(self, folder):
        self.storage = ["--root", folder + "/buildah", "--runroot", folder + "/buildah-run", "--storage-driver", "overlay"]
        self.base = ["buildah", *self.storage]

    def stop(self):
        pass

    def version(self):
        return text("buildah", "--version")

    def import_tar(self, tar, name):
        # buildah has no import; podman puts the image into the same storage.
        return ["podman", *self.storage, "--cgroup-manager", "cgroupfs", "import", tar, name]

    def build(self, context, tag, *flags):
        return self.base + ["build", "--runtime", "runc", "--network", "host", "--pull-never", "--layers", *flags, "-t", tag, context]


class Skopeo:
    """Copies into the storage that podman and buildah use."""
    name = "skopeo"

    def start(self, folder):
        self.storage = f"containers-storage:[overlay@{folder}/skopeo+{folder}/skopeo-run]"

    def stop(self):
        pass

    def version(self):
        return text("skopeo", "--version")

    def load(self, archives):
        kind = "oci-archive:" if archives.best_for_all.endswith(".oci.tar") else "docker-archive:"
        return ["skopeo", "--insecure-policy", "copy", "-q", kind + archives.best_for_all, self.storage + "loaded:latest"]


def text(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()
