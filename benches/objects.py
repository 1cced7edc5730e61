#!/usr/bin/env python3
"""Objects beside dufs and nginx, in one run: 1 GiB down and up, 10,000 small files down and up, a listing of 100,000.

usage: objects.py DXFLOW [--dufs PATH] [--nginx PATH] [--size MIB] [--small N] [--list N] [--rounds N] [--dir DIR]

Every server has the same files on the same file system and is asked by the same curl over keep-alive connections on the
loopback. The rounds go around the servers, so that a noisy minute falls on all of them; the median counts. A server that
is not there is left out. dxflow answers an upload when it is on the disk (fsync of the file and of its directory); dufs
and nginx answer when it is in the page cache. So that both can be seen, the same upload is also timed up to the end of a
`sync` that follows it.
"""
import argparse
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("dxflow")
parser.add_argument("--dufs", default=shutil.which("dufs"))
parser.add_argument("--nginx", default=shutil.which("nginx") or "/usr/sbin/nginx")
parser.add_argument("--size", type=int, default=1024)
parser.add_argument("--small", type=int, default=10_000)
parser.add_argument("--list", type=int, default=100_000)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--dir")
options = parser.parse_args()

place = pathlib.Path(tempfile.mkdtemp(prefix="dxflow-bench-", dir=options.dir))
PARALLEL = 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def fill(volume):
    """The files that are downloaded and listed."""
    (volume / "small").mkdir(parents=True)
    (volume / "many").mkdir()
    (volume / "up").mkdir()
    os.link(source, volume / "large")
    for n in range(options.small):
        os.link(small_source, volume / "small" / f"f{n}")
    for n in range(options.list):
        (volume / "many" / f"file-{n:06}").touch()


class Server:
    headers = []

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Dxflow(Server):
    name = "dxflow"

    def __init__(self):
        data = place / "dxflow-data"
        self.volume = place / "dxflow"
        fill(self.volume)
        self.common = common = [options.dxflow, "--data-dir", data, "--config", place / "none.toml"]
        (place / "none.toml").touch()
        self.port = free_port()
        arguments = ["boot", "up", "--listen", f"127.0.0.1:{self.port}", "--volume", self.volume]
        log = open(place / "dxflow.log", "w")
        self.process = subprocess.Popen([*common, *arguments], stdout=log, stderr=log)
        while "ready" not in (place / "dxflow.log").read_text():
            if self.process.poll() is not None:
                sys.exit((place / "dxflow.log").read_text())
            time.sleep(0.05)
        token = subprocess.run([*common, "engine", "token"], capture_output=True, text=True, check=True).stdout.strip()
        self.headers = ["-H", f"Authorization: Bearer {token}"]
        self.base = f"http://127.0.0.1:{self.port}/api/v1/object/fs"

    def down(self, path):
        return f"{self.base}/download/?identity={path}"

    def up(self, path):
        # Without the slash, after which curl would put the file's name.
        return f"{self.base}/upload?identity={path}&force=true"

    listing = property(lambda self: f"{self.base}/?directory=many&stream=true")

    def stop(self):
        subprocess.run([*self.common, "boot", "down", "--kill-shells"], capture_output=True)
        super().stop()


class Dufs(Server):
    name = "dufs"

    def __init__(self):
        self.volume = place / "dufs"
        fill(self.volume)
        self.port = free_port()
        command = [options.dufs, "-A", "--bind", "127.0.0.1", "--port", str(self.port), "--log-format", "", self.volume]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port)

    def down(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    up = down
    listing = property(lambda self: self.down("many/?json"))


class Nginx(Server):
    name = "nginx"

    def __init__(self):
        self.volume = place / "nginx"
        fill(self.volume)
        self.port = free_port()
        config = place / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        # As Debian sets it up, and with what dxflow offers too: uploads, listings as JSON.
        config.write_text(f"""
{user} worker_processes auto; daemon off; pid {place}/nginx.pid; error_log {place}/nginx.log;
events {{ worker_connections 768; }}
http {{
  sendfile on; tcp_nopush on; access_log off; client_max_body_size 0; client_body_temp_path {self.volume}/.temp;
  keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{self.port}; root {self.volume};
    location / {{ autoindex on; autoindex_format json; dav_methods PUT DELETE; create_full_put_path on; }} }}
}}
""")
        self.process = subprocess.Popen([options.nginx, "-c", config, "-e", place / "nginx.log"])
        wait_for(self.port)

    def down(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    up = down
    listing = property(lambda self: self.down("many/"))


def curl(server, lists):
    """Runs one curl for each list of (url, file to upload or None), all at once; how long the longest took."""
    configs = []
    for number, requests in enumerate(lists):
        config = place / f"curl-{number}"
        with open(config, "w") as out:
            for url, upload in requests:
                out.write(f'url = "{url}"\noutput = "/dev/null"\n')
                if upload:
                    out.write(f'upload-file = "{upload}"\n')
        configs.append(config)
    start = time.monotonic()
    command = ["curl", "-sS", "--fail", "-g", "-H", "Expect:", *server.headers, "-K"]
    running = [subprocess.Popen([*command, config]) for config in configs]
    for process in running:
        if process.wait():
            sys.exit(f"curl failed with {server.name}")
    return time.monotonic() - start


def spread(requests):
    return [requests[n::PARALLEL] for n in range(PARALLEL)]


def synced(work):
    start = time.monotonic()
    answered = work()
    os.sync()
    return answered, time.monotonic() - start


source = place / "source"
with open(source, "wb") as out:
    block = os.urandom(1 << 20)
    for n in range(options.size):
        out.write(n.to_bytes(8, "little") + block[8:])
small_source = place / "small-source"
small_source.write_bytes(os.urandom(4096))

servers = []
try:
    servers.append(Dxflow())
    if options.dufs:
        servers.append(Dufs())
    if os.path.exists(options.nginx):
        servers.append(Nginx())
    os.sync()
    times = {}

    def note(what, server, seconds):
        times.setdefault(what, {}).setdefault(server.name, []).append(seconds)

    large = f"{options.size} MiB"
    few = f"{options.small} files of 4 KiB"
    for turn in range(options.rounds + 1):
        for server in servers:
            if turn == 0:
                # Warms the cache, and whatever a server sets up once.
                curl(server, [[(server.down("large"), None), (server.listing, None)]])
                continue
            note(f"download {large}", server, curl(server, [[(server.down("large"), None)]]))
            answered, on_disk = synced(lambda: curl(server, [[(server.up("up/large"), source)]]))
            note(f"upload {large}, answered", server, answered)
            note(f"upload {large}, on the disk", server, on_disk)
            names = range(options.small)
            note(f"download {few}", server, curl(server, spread([(server.down(f"small/f{n}"), None) for n in names])))
            uploads = spread([(server.up(f"up/f{n}"), small_source) for n in names])
            answered, on_disk = synced(lambda: curl(server, uploads))
            note(f"upload {few}, answered", server, answered)
            note(f"upload {few}, on the disk", server, on_disk)
            note(f"list {options.list} entries", server, curl(server, [[(server.listing, None)]]))
            shutil.rmtree(server.volume / "up")
            (server.volume / "up").mkdir()
            os.sync()

    model = "unknown"
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    print(f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}; "
          f"medians of {options.rounds}, load {os.getloadavg()[0]:.1f}\n")
    names = [server.name for server in servers]
    print("| | " + " | ".join(names) + " | against the best other |")
    print("|---|" + "---:|" * (len(names) + 1))
    for what, by_server in times.items():
        medians = {name: statistics.median(by_server[name]) for name in names}
        others = [seconds for name, seconds in medians.items() if name != "dxflow"]
        ratio = f"{min(others) / medians['dxflow']:.2f}" if others else "–"
        print(f"| {what} | " + " | ".join(f"{medians[name]:.2f} s" for name in names) + f" | {ratio} |")
finally:
    for server in servers:
        server.stop()
    shutil.rmtree(place, ignore_errors=True)
