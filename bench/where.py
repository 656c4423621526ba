#!/usr/bin/python3
"""where.py [ROW...]: by whom the processors' time is taken in Cairn's small operations (as root; needs perf and fio).

Starts a cluster as peers/cairn.sh does, does what bench.sh does of each ROW (default: those of ROWS), samples all
processors by their clock meanwhile, and prints for each the microseconds of all processors for one operation: of the
programs, of FUSE's threads in the mount, of the rest of the mount, of the master, of the three chunkservers, each as
the kernel's part + what is not the kernel's; of what is none of these (interrupts, the kernel's threads, others on
the machine), and of processors that idle. All of a line add up to processors x time."""
import collections, multiprocessing, os, subprocess, sys, tempfile, time

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
sys.path.insert(0, PEERS)
import meta

ROWS = ["create", "write4k", "unlink", "randread", "untar", "rm", "create8", "write4k8", "unlink8", "randread16"]
PIDS = "/mnt/ram/cairn/pid"
FREQUENCY = 4999
PARTS = ["programs", "FUSE", "mount", "master", "chunkservers"]
KERNEL = 1 << 63


class Sampler:
    """perf record of the whole machine, idle until it is told to begin."""

    def __init__(self, out):
        self.out = out
        (ctl, self.ctl), (self.ack, ack) = os.pipe(), os.pipe()
        self.perf = subprocess.Popen(
            ["perf", "record", "-q", "-a", "-e", "cpu-clock", "-F", str(FREQUENCY), "-D", "-1",
             f"--control=fd:{ctl},{ack}", "-o", out], pass_fds=(ctl, ack), stderr=subprocess.PIPE)
        os.close(ctl), os.close(ack)

    def _tell(self, word):
        os.write(self.ctl, word.encode() + b"\n")
        if not os.read(self.ack, 16).startswith(b"ack"):
            sys.exit(f"where.py: perf does not answer: {self.perf.stderr.read().decode()}")

    def begin(self):
        self._tell("enable")

    def end(self):
        self._tell("stop")
        os.close(self.ctl), os.close(self.ack)
        self.perf.communicate()

    def samples(self):
        """(pid, name of the thread, in the kernel) of each."""
        text = subprocess.run(["perf", "script", "-i", self.out, "-F", "pid,comm,ip", "-G"], check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for line in text.splitlines():
            name, pid, ip = line.rsplit(None, 2)
            yield int(pid), name.strip(), bool(int(ip, 16) & KERNEL)


def split(samples, servers, programs):
    """Counts of samples by part, the kernel's and the others."""
    count = collections.Counter()
    for pid, name, kernel in samples:
        who = servers.get(pid)
        if pid == 0:
            part, kernel = "idle", True
        elif who == "mount":
            part = "FUSE" if "fuse" in name else "mount"
        elif who:
            part = "master" if who == "master" else "chunkservers"
        else:
            part = "programs" if name in programs else "others"
        count[part, kernel] += 1
    return count


def report(row, operations, seconds, count):
    whole = seconds * 1e6 * os.cpu_count() / operations
    of = lambda key: count[key] / sum(count.values()) * whole
    parts = "  ".join(f"{p} {of((p, True)):.0f}+{of((p, False)):.0f}" for p in PARTS)
    others = of(("others", True)) + of(("others", False))
    kernel = sum(of((p, True)) for p in PARTS) + others
    programs = of(("programs", False))
    print(f"{row:11} {operations / seconds:7.0f}/s  {whole:5.0f} us = {parts}  others {others:.0f}  idle {of(('idle', True)):.0f}"
          f"  | the kernel and the programs alone {kernel + programs:.0f}", flush=True)


def metadata(mnt, procs, files, wanted, sampled):
    """meta.py's phases in `procs` processes; those of `wanted` inside `sampled`."""
    def work(d, bar):
        os.makedirs(d)
        for phase in meta.PHASES:
            bar.wait(); phase(d, files); bar.wait()
        os.rmdir(d)
    bar = multiprocessing.Barrier(procs + 1)
    workers = [multiprocessing.Process(target=work, args=(f"{mnt}/p{procs}.{i}", bar)) for i in range(procs)]
    for worker in workers: worker.start()
    for phase in meta.PHASES:
        row = phase.__name__ + (str(procs) if procs > 1 else "")
        both = lambda: (bar.wait(), bar.wait())
        sampled(row, procs * files, both, {os.path.basename(sys.executable), "where.py", "python3"}) if row in wanted else both()
    for worker in workers: worker.join()
    if any(worker.exitcode for worker in workers): sys.exit("where.py: a worker failed")


def main():
    wanted = sys.argv[1:] or ROWS
    if wrong := [row for row in wanted if row not in ROWS]: sys.exit(f"where.py: no rows: {wrong}; there are {ROWS}")
    up = subprocess.run([f"{PEERS}/cairn.sh", "up"], check=True, stdout=subprocess.PIPE, text=True)
    mnt = up.stdout.split()[-1]
    try:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
            measure(mnt, scratch, wanted)
    finally:
        subprocess.run([f"{PEERS}/cairn.sh", "down"], check=True)


def measure(mnt, scratch, wanted):
    servers = {int(open(f"{PIDS}/{name}").read().split()[0]): name for name in os.listdir(PIDS)}

    def sampled(row, operations, do, programs):
        sampler = Sampler(f"{scratch}/{row}.perf")
        sampler.begin(); began = time.monotonic()
        operations = do() if operations is None else (do(), operations)[1]
        seconds = time.monotonic() - began; sampler.end()
        report(row, operations, seconds, split(sampler.samples(), servers, programs))

    if {"create", "write4k", "unlink"} & set(wanted): metadata(mnt, 1, 3000, wanted, sampled)
    if {"create8", "write4k8", "unlink8"} & set(wanted): metadata(mnt, 8, 1000, wanted, sampled)
    if {"randread", "randread16"} & set(wanted):
        subprocess.run([sys.executable, f"{PEERS}/stream.py", "write", mnt, "1024", "1"], check=True, stdout=subprocess.DEVNULL)
        for jobs in (1, 16):
            row = "randread" + (str(jobs) if jobs > 1 else "")
            if row in wanted: sampled(row, None, lambda: fio(mnt, scratch, jobs), {"fio"})
    if {"untar", "rm"} & set(wanted):
        tar = f"{scratch}/tree.tar"
        subprocess.run([sys.executable, f"{PEERS}/tree.py", tar], check=True)
        steps = [("untar", ["tar", "xf", tar, "-C", mnt], 5000), ("rm", ["rm", "-rf", f"{mnt}/tree"], 5321)]
        for row, command, operations in steps:
            do = lambda: subprocess.run(command, check=True)
            sampled(row, operations, do, {command[0]}) if row in wanted else do()


def fio(mnt, scratch, jobs):
    """Reads in 8 seconds."""
    import json
    subprocess.run(["fio", "--name=x", f"--filename={mnt}/s0", "--rw=randread", "--bs=4k", "--size=1024m", "--time_based",
                    "--runtime=8", f"--numjobs={jobs}", "--group_reporting", "--ioengine=psync", "--direct=1", "--randseed=1",
                    "--output-format=json", f"--output={scratch}/fio"], check=True, stdout=subprocess.DEVNULL)
    text = open(f"{scratch}/fio").read()
    return json.loads(text[text.index("{"):])["jobs"][0]["read"]["total_ios"]


if __name__ == "__main__": main()
