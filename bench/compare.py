#!/usr/bin/python3
"""compare.py OUTDIR SYSTEM...: a Markdown table of the medians over all rounds that compare.sh left in OUTDIR, with the
ratio of the first system to the second: above 1 is better for rates, below 1 for times, CPU and memory (of which the most
over all rounds is shown, not the median)."""
import glob, statistics, sys

d, names = sys.argv[1], sys.argv[2:]
rows, values = [], {}
for n in names:
    for path in sorted(glob.glob(f"{d}/{n}.*.run")):
        for line in open(path):
            k, x, unit = line.split()
            if k.endswith(("_min", "_max")) or k in ("bench_wall", "find_entries"): continue
            if (k, unit) not in rows: rows.append((k, unit))
            values.setdefault((n, k), []).append(float(x))

def num(x): return f"{x:,.0f}" if x >= 100 else f"{x:.3g}" if x < 10 else f"{x:.1f}"
def middle(k, v): return max(v) if k.startswith("rss_") else statistics.median(v)
def cell(n, k):
    v = values.get((n, k))
    if not v: return "-"
    return num(middle(k, v)) + (f" [{num(min(v))}-{num(max(v))}]" if len(v) > 1 else "")
def ratio(k):
    a, b = (values.get((n, k)) for n in names[:2])
    return f"{middle(k, a) / middle(k, b):.2f}" if a and b and middle(k, b) else "-"

print("| figure | unit | " + " | ".join(names) + (f" | {names[0]} / {names[1]} |" if len(names) > 1 else " |"))
print("|---|---|" + "---:|" * (len(names) + (len(names) > 1)))
for k, unit in rows:
    print(f"| {k} | {unit} | " + " | ".join(cell(n, k) for n in names) + (f" | {ratio(k)} |" if len(names) > 1 else " |"))
