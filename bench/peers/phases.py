#!/usr/bin/python3
"""phases.py DIR FILES PIDDIR [PROCS]: as meta.py, but one line per phase: ops/s, and CPU-us/op of the workload, the mount, the
master and the chunkservers each (by /proc/PID/task/*/schedstat: others on the machine do not count). PIDDIR is what
common.sh keeps: /mnt/ram/cairn/pid."""
import multiprocessing as mp, os, sys, time
from meta import PHASES, readdir
def cpu_of(pid):
    # schedstat: ns on CPU, summed over threads
    t = 0
    for x in os.listdir(f"/proc/{pid}/task"):
        try: t += int(open(f"/proc/{pid}/task/{x}/schedstat").read().split()[0])
        except OSError: pass
    return t
def switches(pid):
    t = 0
    for x in os.listdir(f"/proc/{pid}/task"):
        try:
            for l in open(f"/proc/{pid}/task/{x}/status"):
                if "ctxt_switches" in l: t += int(l.split()[1])
        except OSError: pass
    return t
def work(d, n, bar, q):
    os.makedirs(d)
    for f in PHASES:
        bar.wait(); s = time.monotonic(); c = time.process_time(); f(d, n); q.put((s, time.monotonic(), time.process_time() - c)); bar.wait()
    os.rmdir(d)
def main():
    d, n, pids = sys.argv[1], int(sys.argv[2]), sys.argv[3]; p = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    who = {k: int(open(f"{pids}/{k}").read().split()[0]) for k in os.listdir(pids)}
    os.makedirs(d, exist_ok=True)
    bar, q = mp.Barrier(p + 1), mp.SimpleQueue()
    ps = [mp.Process(target=work, args=(f"{d}/p{i}", n, bar, q)) for i in range(p)]
    for x in ps: x.start()
    tot = 0; rows = 0
    for f in PHASES:
        c0 = {k: cpu_of(v) for k, v in who.items()}; s0 = {k: switches(v) for k, v in who.items()}
        bar.wait(); got = [q.get() for _ in range(p)]; bar.wait()
        c = {k: cpu_of(v) - c0[k] for k, v in who.items()}; s = {k: switches(v) - s0[k] for k, v in who.items()}
        e = max(b for _, b, _ in got) - min(a for a, _, _ in got); ops = n * p
        cs = sum(v for k, v in c.items() if k.startswith("cs"))
        me = sum(x for _, _, x in got) * 1e9
        all_ = me + sum(c.values())
        if f is not readdir: tot += all_; rows += 1
        print(f"{f.__name__:8} {ops/e:9.0f}/s  CPU-us/op {all_/ops/1e3:7.1f} = app {me/ops/1e3:6.1f} mount {c.get('mount',0)/ops/1e3:6.1f} master {c.get('master',0)/ops/1e3:6.1f} cs {cs/ops/1e3:6.1f}  switches/op mount {s.get('mount',0)/ops:.2f} master {s.get('master',0)/ops:.2f} cs {sum(v for k, v in s.items() if k.startswith('cs'))/ops:.2f}", flush=True)
    for x in ps: x.join()
    print(f"cpu      {tot/(n*p*rows)/1e3:.1f} us/op")
    os.rmdir(d)
main()
