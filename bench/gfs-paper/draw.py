#!/usr/bin/env python3
"""Makes table.md and three plots (Figure 3 of the GFS paper) from DIR/results.json: bench/gfs-paper/draw.py DIR"""
import json, pathlib, sys

SERVERS, COPIES = 16, 3
NIC, TRUNK = 12.5, 125.0  # MB/s, raw
# the paper's end points: clients, MB/s in all
PAPER = {"read": [(1, 10), (16, 94)], "write": [(1, 6.3), (16, 35)], "append": [(1, 6.0), (16, 4.8)]}
TITLE = {"read": "Reads: random regions of 4 MB", "write": "Writes: distinct files, 1 MB at a time",
         "append": "Record appends: one file, records of 1 MB"}
# of what iperf3 gives, at 1 and at 16 clients
BARS = {"read": {1: 97, 16: 97}, "write": {1: 93, 16: 85}, "append": {1: 85, 16: 85}}


def limit(mode, n, nic, trunk):
    """What the links allow n clients in all."""
    if mode == "read":
        return min(n * nic, trunk)
    if mode == "write":  # each byte to three of the servers
        return min(n * nic, SERVERS * nic / COPIES)
    return nic  # the server that is first in the last chunk's chain


def svg(mode, points, result):
    width, height, left, bottom, top, right = 460, 320, 52, 44, 34, 14
    ceiling = max(limit(mode, 16, NIC, TRUNK), *(p["rate"] for p in points)) * 1.12
    x = lambda n: left + (width - left - right) * n / 16.5
    y = lambda rate: height - bottom - (height - bottom - top) * rate / ceiling
    line = lambda pts, style: (f'<polyline fill="none" {style} points="' +
                               " ".join(f"{x(n):.1f},{y(r):.1f}" for n, r in pts) + '"/>')
    text = lambda at, s, extra="": f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" {extra}>{s}</text>'
    step = next(s for s in (2, 5, 10, 20, 25, 50) if ceiling / s < 8)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>',
           text((left, 18), TITLE[mode], 'font-size="13" font-weight="bold"')]
    for k in range(int(ceiling / step) + 1):
        rate = k * step
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(rate):.1f}" y2="{y(rate):.1f}" stroke="#ddd"/>')
        out.append(text((left - 6, y(rate) + 4), rate, 'text-anchor="end"'))
    for n in (0, 4, 8, 12, 16):
        out.append(text((x(n), height - bottom + 16), n, 'text-anchor="middle"'))
    out.append(text(((left + width) / 2, height - 10), "clients", 'text-anchor="middle"'))
    out.append(text((14, height / 2), "MB/s in all", f'text-anchor="middle" transform="rotate(-90 14 {height / 2})"'))
    kinks = sorted({0.0001, 1, 2, 4, 8, 12, 16, SERVERS / COPIES, TRUNK / NIC} if mode != "append" else {0.0001, 16})
    network = [(n, limit(mode, n, NIC, TRUNK)) for n in kinks]
    cairn = [(p["clients"], p["rate"]) for p in points]
    out.append(line(network, 'stroke="#888" stroke-dasharray="5 3"'))
    out.append(line(PAPER[mode], 'stroke="#c60" stroke-dasharray="2 3"'))
    out.append(line(cairn, 'stroke="#06a" stroke-width="2"'))
    out += [f'<circle cx="{x(n):.1f}" cy="{y(r):.1f}" r="3.5" fill="#c60"/>' for n, r in PAPER[mode]]
    out += [f'<circle cx="{x(n):.1f}" cy="{y(r):.1f}" r="3" fill="#06a"/>' for n, r in cairn]
    at_y = height - bottom - 46
    for k, (color, name) in enumerate((("#888", "network limit"), ("#06a", "Cairn"), ("#c60", "GFS paper, 2003 (end points)"))):
        yy = at_y + k * 15
        out.append(f'<line x1="{width - 205}" x2="{width - 185}" y1="{yy}" y2="{yy}" stroke="{color}" stroke-width="2"/>')
        out.append(text((width - 180, yy + 4), name))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def table(result):
    iperf = result["iperf3"]
    one, trunk = iperf["one_in"], iperf["all_in"]
    lines = [f"# The GFS paper's testbed, {result['date']}", "",
             f"`{result['command']}`, {result['seconds']} s of traffic a point, one run, {result['processors']} processors for all of "
             "it. " + (f"Load average {result['load']:.1f} at its end. " if "load" in result else "") +
             f"iperf3 over the same links before: {iperf['one_in']:.2f} MB/s to one client, "
             f"{iperf['one_out']:.2f} from one, {iperf['all_in']:.1f} to all 16 at once.", "",
             "| what | clients | Cairn, MB/s | of what iperf3 gives | bar | of the raw limit | paper, MB/s | processors busy |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for mode, points in result["points"].items():
        for p in points:
            n = p["clients"]
            nic = one if mode == "read" else iperf["one_out"]
            given = p["rate"] / limit(mode, n, nic, trunk) * 100
            raw = p["rate"] / limit(mode, n, NIC, TRUNK) * 100
            bar = BARS[mode].get(n)
            paper = dict(PAPER[mode]).get(n, "")
            said = "" if bar is None else f"{bar} %" + ("" if given >= bar else ", missed")
            lines.append(f"| {mode} | {n} | {p['rate']:.2f} | {given:.1f} % | {said} | {raw:.1f} % | {paper} | "
                         f"{p['processors_busy']:.0%} |")
    return "\n".join(lines) + "\n"


def main():
    out = pathlib.Path(sys.argv[1])
    result = json.loads((out / "results.json").read_text())
    (out / "table.md").write_text(table(result))
    for mode, points in result["points"].items():
        (out / f"{mode}.svg").write_text(svg(mode, points, result))
    print(table(result))


if __name__ == "__main__":
    main()
