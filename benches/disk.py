"""The disk under the measurements: an ext4 with a journal in a loop file, and the inputs on it.

Root file systems of cloud machines often have no journal or an odd one, which makes file-heavy work of every tool
several times slower or faster; in a loop file everyone has the same ground. The mount is made in a private mount
namespace (see `peers`), so nothing of it is seen outside and it goes when the script goes.
"""
import gzip, hashlib, io, json, os, shutil, subprocess, tarfile

FILES, FILE_SIZE, FOLDERS = 20_000, 10_240, 200


class Loop:
    """A sparse file of `size`, formatted and mounted; `close` takes both away."""

    def __init__(self, folder, size="16G"):
        os.makedirs(folder, exist_ok=True)
        self.image = os.path.join(folder, f"loop-{os.getpid()}.img")
        self.place = os.path.join(folder, f"disk-{os.getpid()}")
        os.makedirs(self.place)
        run("truncate", "-s", size, self.image)
        # Without lazy initialisation the kernel would still be writing tables while we measure.
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        run("mount", "-o", "loop", self.image, self.place)

    def close(self):
        subprocess.run(["umount", "-l", self.place], check=False)
        os.rmdir(self.place) if not os.listdir(self.place) else None
        os.unlink(self.image)


def run(*words):
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def busybox_tar(path):
    """A root file system of one static busybox and links to it."""
    busybox = open(shutil.which("busybox"), "rb").read()
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            tar.addfile(_entry(name, tarfile.DIRTYPE))
        entry = _entry("bin/busybox", tarfile.REGTYPE)
        entry.size = len(busybox)
        tar.addfile(entry, io.BytesIO(busybox))
        for name in ("sh", "true", "echo", "cat", "ls"):
            entry = _entry("bin/" + name, tarfile.SYMTYPE)
            entry.linkname = "busybox"
            tar.addfile(entry)


def _entry(name, kind):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, 0o755, 1_700_000_000
    return entry


def compress(source, target):
    """gzip, as a stranger would send it."""
    with open(target, "wb") as out:
        subprocess.run(["gzip", "-6", "-n", "-c", source], stdout=out, check=True)


def docker_archive(root_tar, path, name):
    """Wraps a root file system tar as `docker save` would, made by none of the tools that are measured."""
    diff_id = _sha256(root_tar)
    config = _config(diff_id)
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [name + ":latest"], "Layers": ["layer/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _add(tar, config_name, config)
        tar.addfile(_entry("layer", tarfile.DIRTYPE))
        tar.add(root_tar, "layer/layer.tar")
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def oci_archive(root_tar, gzip_tar, path, name):
    """The same as an OCI archive with a gzip layer."""
    config = _config(_sha256(root_tar))
    layer = _sha256(gzip_tar)
    part = lambda kind, digest, size: {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": size}
    config_digest = hashlib.sha256(config).hexdigest()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", config_digest, len(config)),
        "layers": [part("layer.v1.tar+gzip", layer, os.path.getsize(gzip_tar))],
    }).encode()
    manifest_digest = hashlib.sha256(manifest).hexdigest()
    top = part("manifest.v1+json", manifest_digest, len(manifest))
    top["annotations"] = {"org.opencontainers.image.ref.name": name + ":latest"}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode())
        _add(tar, "blobs/sha256/" + config_digest, config)
        _add(tar, "blobs/sha256/" + manifest_digest, manifest)
        tar.add(gzip_tar, "blobs/sha256/" + layer)


def _config(diff_id):
    return json.dumps({
        "architecture": "amd64", "os": "linux", "created": "2026-11-23T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff_id]},
        "history": [{"created": "2026-11-23T00:00:00Z", "created_by": "benches/peers"}],
    }).encode()


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar, name, data):
    entry = _entry(name, tarfile.REGTYPE)
    entry.mode, entry.size = 0o644, len(data)
    tar.addfile(entry, io.BytesIO(data))


def run_context(folder, salt):
    """A Containerfile of 20 RUN steps; the salt makes every step unknown to every cache."""
    os.makedirs(folder)
    steps = "".join(f"RUN echo {salt} {step} > /step-{step}\n" for step in range(20))
    with open(folder + "/Dockerfile", "w") as file:
        file.write("FROM busybox\n" + steps)


def copy_context(folder):
    """A Containerfile that copies 20,000 files of 10 KiB with content that nobody has seen yet."""
    for number in range(FOLDERS):
        os.makedirs(f"{folder}/files/{number:03}")
        for file in range(FILES // FOLDERS):
            with open(f"{folder}/files/{number:03}/{file:03}", "wb") as out:
                out.write(os.urandom(FILE_SIZE))
    with open(folder + "/Dockerfile", "w") as file:
        file.write("FROM busybox\nCOPY files /files\n")


def change_one_file(folder):
    with open(f"{folder}/files/{FOLDERS // 2:03}/050", "wb") as out:
        out.write(os.urandom(FILE_SIZE))
