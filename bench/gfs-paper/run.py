#!/usr/bin/env python3
"""The GFS paper's own testbed (SOSP 2003, section 6.1) in network namespaces of this machine: 16 chunkservers and a
master on one switch, 16 clients on another, 100 Mbit/s NICs, 1 Gbit/s between the switches; N clients at a time read
random regions of 4 MB, write distinct files, and append to one file.

    bench/gfs-paper/run.py [--out DIR] [--seconds S] [--clients 1,2,4,8,12,16] [--only read,write,append]
    bench/gfs-paper/run.py --down        removes what an interrupted run has left

Root, iproute2, iperf3, about 12 GiB of memory. Everything that it starts it ends, also when it fails. Takes
target/release/cairn and target/release/examples/gfs_paper, or what $CAIRN and $DRIVER name; builds them if they are the
former. Writes results.json; draw.py makes the table and the plots from it.
"""
import argparse, datetime, json, os, pathlib, shutil, signal, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SERVERS, CLIENTS = 16, 16
NIC, TRUNK = "100mbit", "1gbit"
PREFIX = "gfsp-"
SWITCH = PREFIX + "switch"
MASTER = "10.77.1.1"
PORT = 7600
WARM_UP = 2  # seconds
CHUNK_PORT = 7610


def server_ip(i): return f"10.77.1.{10 + i}"
def client_ip(i): return f"10.77.1.{100 + i}"


def sh(*args, check=True, **kw):
    return subprocess.run([str(a) for a in args], check=check, text=True, capture_output=True, **kw)


def ns(name, *args):
    return ["nsenter", f"--net=/run/netns/{PREFIX}{name}", "--", *[str(a) for a in args]]


def batch(tool, lines, net=None):
    """Commands for ip or tc, in one process."""
    command = [tool, "-batch", "-"]
    if net:
        command = ["nsenter", f"--net=/run/netns/{net}", "--", *command]
    done = subprocess.run(command, input="\n".join(lines) + "\n", text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n" + "\n".join(lines))


def shaped(device, rate):
    # a queue of 50 ms, about 600 KB
    burst = "128kb" if rate == NIC else "256kb"
    return f"qdisc add dev {device} root tbf rate {rate} burst {burst} latency 50ms"


class Testbed:
    def __init__(self):
        self.children = []
        self.data = None

    def up(self):
        nodes = [("m", MASTER, "br1")]
        nodes += [(f"s{i}", server_ip(i), "br1") for i in range(SERVERS)]
        nodes += [(f"c{i}", client_ip(i), "br2") for i in range(CLIENTS)]
        batch("ip", [f"netns add {SWITCH}"] + [f"netns add {PREFIX}{name}" for name, _, _ in nodes])
        lines = ["link set lo up", "link add br1 type bridge", "link add br2 type bridge",
                 "link add trunk1 type veth peer name trunk2",
                 "link set trunk1 master br1", "link set trunk2 master br2"]
        lines += [f"link set {d} up" for d in ("br1", "br2", "trunk1", "trunk2")]
        for name, _, bridge in nodes:
            lines += [f"link add p-{name} type veth peer name eth0 netns {PREFIX}{name}",
                      f"link set p-{name} master {bridge}", f"link set p-{name} up"]
        batch("ip", lines, SWITCH)
        shapes = [shaped("trunk1", TRUNK), shaped("trunk2", TRUNK)]
        shapes += [shaped(f"p-{name}", NIC) for name, _, _ in nodes]
        batch("tc", shapes, SWITCH)
        for name, ip, _ in nodes:
            batch("ip", ["link set lo up", f"addr add {ip}/24 dev eth0", "link set eth0 up"], PREFIX + name)
            batch("tc", [shaped("eth0", NIC)], PREFIX + name)

    def down(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in reversed(self.children):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children = []
        remove_namespaces()
        if self.data:
            sh("umount", self.data, check=False)
            shutil.rmtree(self.data, ignore_errors=True)

    def start(self, command, log=None, **kw):
        log = open(log, "ab") if log else subprocess.DEVNULL
        kw = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | kw
        child = subprocess.Popen(command, **kw)
        self.children.append(child)
        return child

    def iperf(self, pairs, seconds, reverse):
        """MB/s of TCP payload in all, between (client, server) namespaces at once."""
        servers = [self.start(ns(s, "iperf3", "-s", "-1", "-B", ip)) for _, s, ip in pairs]
        time.sleep(1)
        way = ["-R"] if reverse else []
        runs = [self.start(ns(c, "iperf3", "-c", ip, "-t", seconds, "-O", 1, "-J", *way), stdout=subprocess.PIPE)
                for c, _, ip in pairs]
        total = 0
        for run in runs:
            answer = json.loads(run.communicate(timeout=seconds + 30)[0])
            total += answer["end"]["sum_received"]["bits_per_second"] / 8e6
        for server in servers:
            server.wait(20)
        return total

    def cluster(self, cairn):
        self.data = tempfile.mkdtemp(prefix="gfs-paper-", dir="/dev/shm")
        sh("mount", "-t", "tmpfs", "-o", "size=14g", "tmpfs", self.data)
        logs = pathlib.Path(self.data) / "logs"
        logs.mkdir()
        address = f"{MASTER}:{PORT}"
        # files that a point has written go at once, so that memory holds those of the next
        settings = ["--trash-keep", "0s", "--set", "master.gc-grace=2s", "--set", "log.level=warn"]
        self.start(ns("m", cairn, "master", "--data", f"{self.data}/master", "--listen", address, *settings),
                   logs / "master.log")
        for i in range(SERVERS):
            listen = f"{server_ip(i)}:{CHUNK_PORT}"
            command = [cairn, "chunkserver", "--master", address, "--disk", f"{self.data}/cs{i}", "--listen", listen,
                       "--set", "log.level=warn"]
            (pathlib.Path(self.data) / f"cs{i}").mkdir()
            self.start(ns(f"s{i}", *command), logs / f"cs{i}.log")
        deadline = time.time() + 60
        while time.time() < deadline:
            status = subprocess.run(ns("m", cairn, "admin", "status", "--json", "--master", address),
                                    capture_output=True, text=True)
            if status.returncode == 0:
                answer = json.loads(status.stdout)
                if sum(s["up"] for s in answer["servers"]) == SERVERS and not answer["safe_mode"]:
                    return address
            time.sleep(0.5)
        raise RuntimeError("the cluster did not come up: " + (logs / "master.log").read_text()[-2000:])

    def clients(self, driver, mode, n, address, seconds, name):
        """What each of n clients has done, which begin together: (when it ended, bytes) of each part."""
        log = f"{self.data}/logs/{mode}.log"
        started = []
        for i in range(n):
            command = ns(f"c{i}", driver, mode, address, i, seconds, name)
            started.append(self.start(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for child in started:
            if child.stdout.readline().strip() != "ready":
                raise RuntimeError(f"{mode}: a client did not start: {pathlib.Path(log).read_text()[-2000:]}")
        before = cpu()
        begun = time.time()
        for child in started:
            child.stdin.write("go\n")
            child.stdin.flush()
        answers = []
        for child in started:
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"{mode}: a client failed: {pathlib.Path(log).read_text()[-2000:]}")
            answers.append(json.loads(line))
        busy = (cpu() - before) / (time.time() - begun) / os.cpu_count()
        for child in started:
            child.stdin.close()
            if child.wait(60):
                raise RuntimeError(f"{mode}: a client failed at its end: {pathlib.Path(log).read_text()[-2000:]}")
        return answers, busy


def rate(parts, seconds):
    """MB/s in all. Between the first and the last part that ended after the warm-up and before the time was over: neither
    the start nor what was cut off is in it."""
    steady = sorted(p for p in parts if WARM_UP <= p[0] <= seconds)
    if len(steady) < 2:
        return 0.0
    return sum(size for _, size in steady[1:]) / 1e6 / (steady[-1][0] - steady[0][0])


def whole_rates(answers):
    """MB/s of each client that does one thing from its start to its end."""
    return [size / 1e6 / end for answer in answers for end, size in answer]


def cpu():
    """Seconds in which processors of this machine were not idle."""
    fields = [int(f) for f in open("/proc/stat").readline().split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def remove_namespaces():
    for path in sorted(pathlib.Path("/run/netns").glob(PREFIX + "*")):
        sh("ip", "netns", "del", path.name, check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--seconds", type=int, default=12, help="of traffic for each point")
    parser.add_argument("--clients", default="1,2,4,8,12,16")
    parser.add_argument("--only", default="read,write,append")
    parser.add_argument("--down", action="store_true")
    options = parser.parse_args()
    if options.down:
        return remove_namespaces()
    if os.geteuid():
        sys.exit("run.py: namespaces need root")
    cairn = os.environ.get("CAIRN", str(ROOT / "target/release/cairn"))
    driver = os.environ.get("DRIVER", str(ROOT / "target/release/examples/gfs_paper"))
    if not {"CAIRN", "DRIVER"} <= os.environ.keys():
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "cairn", "-p", "cairn-client", "--bin", "cairn",
                        "--example", "gfs_paper", "--manifest-path", str(ROOT / "Cargo.toml")], check=True)
    counts = [int(n) for n in options.clients.split(",")]
    bed = Testbed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
              "command": " ".join(["bench/gfs-paper/run.py", *sys.argv[1:]]), "seconds": options.seconds,
              "processors": os.cpu_count(), "points": {}}
    try:
        bed.up()
        one = [("c0", "s0", server_ip(0))]
        result["iperf3"] = {
            "one_in": bed.iperf(one, 4, True), "one_out": bed.iperf(one, 4, False),
            "all_in": bed.iperf([(f"c{i}", f"s{i}", server_ip(i)) for i in range(CLIENTS)], 5, True),
        }
        print("iperf3, MB/s:", {k: round(v, 2) for k, v in result["iperf3"].items()}, flush=True)
        address = bed.cluster(cairn)
        for mode in options.only.split(","):
            if mode == "read":
                answers, _ = bed.clients(driver, "prepare", CLIENTS, address, 0, "set")
                print(f"the file set was written at {sum(whole_rates(answers)):.1f} MB/s", flush=True)
            points = result["points"][mode] = []
            for n in counts:
                name = str(CLIENTS) if mode == "read" else f"{mode}-{n}"
                answers, busy = bed.clients(driver, mode, n, address, options.seconds, name)
                if mode == "write":
                    total = sum(whole_rates(answers))
                else:
                    total = rate([part for answer in answers for part in answer], options.seconds)
                points.append({"clients": n, "rate": total, "processors_busy": busy})
                print(f"{mode:6} {n:2} clients: {total:6.2f} MB/s, processors {busy:.0%} busy", flush=True)
                if mode != "read":
                    subprocess.run(ns("m", cairn, "rm", "--master", address, f"/{name}*"), check=True)
        result["load"] = os.getloadavg()[1]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.environ.get("KEEP_LOGS") and bed.data:
            shutil.copytree(f"{bed.data}/logs", os.environ["KEEP_LOGS"], dirs_exist_ok=True)
        bed.down()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    subprocess.run([sys.executable, str(HERE / "draw.py"), str(options.out)], check=True)


if __name__ == "__main__":
    main()
