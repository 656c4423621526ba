#!/usr/bin/python3
"""table.py OUTDIR: a Markdown table, figure by system, of what run.sh left in OUTDIR; median [min-max] where known."""
import os, sys
d = sys.argv[1]; order = ["plain", "nullfuse", "bindfs", "cairn", "moosefs", "glusterfs", "cephfs"]
names = [n for n in order if os.path.exists(f"{d}/{n}")]
names += sorted(n for n in os.listdir(d) if "." not in n and n not in order)
v, rows = {}, []
for n in names:
    for l in open(f"{d}/{n}"):
        k, x, u = l.split(); x = float(x)
        if k == "bench_wall": x += v.get((n, k), (0, u))[0]
        if k == "steal": x = max(x, v.get((n, k), (0, u))[0])
        v[n, k] = (x, u)
        if not k.endswith(("_min", "_max")) and (k, u) not in rows: rows.append((k, u))
def num(x): return f"{x:,.0f}" if x >= 100 else f"{x:.3g}" if x < 10 else f"{x:.1f}"
def cell(n, k):
    if (n, k) not in v: return "-"
    s = num(v[n, k][0])
    if (n, k + "_min") in v: s += f" [{num(v[n, k + '_min'][0])}-{num(v[n, k + '_max'][0])}]"
    return s
print("| figure | unit | " + " | ".join(names) + " |\n|---|---|" + "---:|" * len(names))
for k, u in rows: print(f"| {k} | {u} | " + " | ".join(cell(n, k) for n in names) + " |")
