#!/usr/bin/python3
"""read_chunk.py DISK...: read every chunk file below the given directories by docs/chunk-format.md alone and check
header, checksum table and data against each other, and that the replicas of a chunk are identical. With --flip FILE
data|table|header: turn one bit there, for tests. Prints a line of what was checked; exits 1 if anything disagrees."""
import os, struct, sys, zlib

BLOCK, TABLE, DATA = 65536, 4096, 8192

def chunk_files(disks):
    for disk in disks:
        for d, _, names in os.walk(disk):
            for n in names:
                if n.endswith(".chunk"): yield os.path.join(d, n)

def check(path):
    """(handle, version, length, CRC32 of all data) of a chunk file; raises ValueError where it contradicts itself."""
    with open(path, "rb") as f:
        h = f.read(512)
        if h[:8] != b"CairnChk": raise ValueError("no magic")
        if zlib.crc32(h[:508]) != struct.unpack_from("<I", h, 508)[0]: raise ValueError("header checksum")
        handle, epoch, counter, length = struct.unpack_from("<4Q", h, 48)
        if f"{handle:016x}.chunk" != os.path.basename(path): raise ValueError(f"header names {handle:016x}")
        f.seek(TABLE); table = struct.unpack("<1024I", f.read(4096))
        f.seek(DATA); whole = 0
        blocks = -(-length // BLOCK)
        for b in range(blocks):
            n = min(BLOCK, length - b * BLOCK)
            data = f.read(n); data += bytes(n - len(data))
            if zlib.crc32(data) != table[b]: raise ValueError(f"block {b} of {blocks}")
            whole = zlib.crc32(data, whole)
        if any(table[blocks:]): raise ValueError("an entry beyond the length is not 0")
    return handle, (epoch, counter), length, whole

def flip(path, what):
    at = {"header": 80, "table": TABLE + 1, "data": DATA + 1000}[what]
    with open(path, "r+b") as f:
        f.seek(at); b = f.read(1)[0]; f.seek(at); f.write(bytes([b ^ 4])); f.flush(); os.fsync(f.fileno())

def main():
    if sys.argv[1] == "--flip": return flip(*sys.argv[2:4])
    seen, bad, size = {}, 0, 0
    for path in chunk_files(sys.argv[1:]):
        try:
            handle, version, length, data = check(path)
            size += length; seen.setdefault(handle, {})[path] = (version, length, data)
        except (ValueError, OSError) as e:
            bad += 1; print(f"{path}: {e}")
    for handle, replicas in seen.items():
        newest = max(v for v, _, _ in replicas.values())
        if len({r for r in replicas.values() if r[0] == newest}) != 1:
            bad += 1; print(f"{handle:016x}: replicas differ: {replicas}")
    files = sum(map(len, seen.values()))
    print(f"{files} chunk files of {len(seen)} chunks, {size} bytes: {bad} wrong")
    sys.exit(bad > 0 or not files)
main()
