#!/bin/bash
# Bar 2: what people do on a mount. Each must exit 0: git clone of over 10,000 loose objects, a commit and fsck; untar of
# 5,000 files and diff; a cargo build; SQLite under a write load; fsx; fio with verification; a directory of 100,000.
# PARTS chooses some: git untar cargo sqlite fsx fio bigdir.
. "$(dirname "$0")/common.sh"
PARTS=${*:-git untar cargo sqlite fsx fio bigdir}
OPS=${OPS:-100000} SEEDS=${SEEDS:-1 2 3} ENTRIES=${ENTRIES:-100000}
PY=/usr/bin/python3
cd "$WORK"
run up "$CAIRN" up --mount "$WORK/mnt" --data "$WORK/data" --listen "127.0.0.1:$PORT"
within 60 mountpoint -q "$WORK/mnt" || die "not mounted: $(tail -3 "$WORK/up.log")"
M=$WORK/mnt

part_git() {
  git init -q src; git -C src config user.email bar@example.org; git -C src config user.name Bar
  git -C src config gc.auto 0
  $PY - src <<'P'
import os, sys
for d in range(110):
    os.makedirs(f"{sys.argv[1]}/d{d}")
    for f in range(100):
        open(f"{sys.argv[1]}/d{d}/f{f}", "w").write(f"file {d} {f}\n" * (1 + f % 7))
P
  git -C src add -A; git -C src commit -qm first
  local n; n=$(find src/.git/objects -type f | wc -l); [ "$n" -gt 10000 ] || die "only $n loose objects"
  git clone -q --no-hardlinks src "$M/clone"
  git -C "$M/clone" config user.email bar@example.org; git -C "$M/clone" config user.name Bar
  git -C "$M/clone" config gc.auto 0 # it would go on in the background, and keep the mount busy at the end
  echo more >> "$M/clone/d0/f0"; git -C "$M/clone" commit -qam second
  git -C "$M/clone" fsck --full --strict
  [ -z "$(git -C "$M/clone" status --porcelain)" ] || die "the clone is not clean"
  say "git: $n loose objects cloned, committed, fsck clean"
}
part_untar() {
  $PY "$ROOT/bench/peers/tree.py" tree.tar; tar xf tree.tar; tar xf tree.tar -C "$M"
  diff -r tree "$M/tree"; say "untar: $(find "$M/tree" -type f | wc -l) files, no difference"
}
part_cargo() {
  mkdir -p "$M/crate/src"
  printf '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' > "$M/crate/Cargo.toml"
  printf 'fn main() { println!("{}", small::answer()); }\n' > "$M/crate/src/main.rs"
  printf 'pub fn answer() -> u32 { 42 }\n#[test]\nfn t() { assert_eq!(answer(), 42); }\n' > "$M/crate/src/lib.rs"
  (cd "$M/crate" && env -u CARGO_TARGET_DIR cargo test -q --offline && env -u CARGO_TARGET_DIR cargo run -q --offline | grep -qx 42)
  echo '// changed' >> "$M/crate/src/lib.rs"
  (cd "$M/crate" && env -u CARGO_TARGET_DIR cargo build -q --offline)
  say "cargo: built, tested, run, built again, target on the mount"
}
part_sqlite() {
  $PY - "$M/test.db" <<'P'
import os, sqlite3, subprocess, sys
path = sys.argv[1]
def worker(k):
    c = sqlite3.connect(path, timeout=60)
    for i in range(150):
        with c: c.executemany("insert into t values (?, ?, ?)", [(k, i * 20 + j, os.urandom(200)) for j in range(20)])
        if i % 10 == 0:
            with c: c.execute("update t set v = ? where k = ? and i % 7 = 0", (os.urandom(100), k))
            with c: c.execute("delete from t where k = ? and i % 11 = 3", (k,))
for mode in ["delete", "truncate"]:
    if os.path.exists(path): os.unlink(path)
    c = sqlite3.connect(path)
    c.execute(f"pragma journal_mode = {mode}"); c.execute("create table t (k, i, v)"); c.execute("create index x on t (k, i)"); c.commit(); c.close()
    import multiprocessing as mp
    ps = [mp.Process(target=worker, args=(k,)) for k in range(3)]
    [p.start() for p in ps]; [p.join() for p in ps]
    if any(p.exitcode for p in ps): sys.exit("a writer failed")
    c = sqlite3.connect(path)
    ok = c.execute("pragma integrity_check").fetchall()
    if ok != [("ok",)]: sys.exit(f"integrity: {ok}")
    print(mode, c.execute("select count(*) from t").fetchone()[0], "rows, integrity ok")
P
  say "sqlite: done"
}
part_fsx() {
  command -v fsx > /dev/null || cargo install --quiet --locked --root "$WORK/tools" fsx
  PATH=$WORK/tools/bin:$PATH
  # every operation that the mount supports, weighted above zero
  cat > fsx.toml <<'T'
flen = 209715200
nomsyncafterwrite = false
[opsize]
max = 1048576
[weights]
close_open = 1.0
invalidate = 1.0
truncate = 1.0
fsync = 1.0
fdatasync = 1.0
write = 10.0
read = 10.0
mapread = 5.0
mapwrite = 5.0
posix_fallocate = 1.0
punch_hole = 1.0
sendfile = 1.0
posix_fadvise = 1.0
copy_file_range = 1.0
T
  local s
  for s in $SEEDS; do
    fsx -f fsx.toml -S "$s" -N "$OPS" "$M/fsx-$s" > "fsx-$s.log" 2>&1 || { tail -30 "fsx-$s.log"; die "fsx, seed $s"; }
    rm -f "$M/fsx-$s"
    say "fsx: $OPS operations, seed $s"
  done
}
part_fio() {
  fio --name=v --directory="$M" --rw=randwrite --bs=4k --size=64m --numjobs=4 --direct=1 --ioengine=psync \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --group_reporting --output=fio.log
  rm -f "$M"/v.*; say "fio: 4 jobs of random direct writes verified"
}
part_bigdir() {
  $PY - "$M/big" "$ENTRIES" <<'P'
import os, sys
d, n = sys.argv[1], int(sys.argv[2]); os.mkdir(d)
for i in range(n): os.close(os.open(f"{d}/entry-{i:06}", os.O_CREAT | os.O_WRONLY))
names = os.listdir(d)
if len(names) != n or len(set(names)) != n: sys.exit(f"{len(names)} names, {len(set(names))} distinct, of {n}")
P
  [ "$(ls "$M/big" | wc -l)" = "$ENTRIES" ] || die "ls differs"
  [ "$("$CAIRN" ls /big | wc -l)" = "$ENTRIES" ] || die "cairn ls differs"
  say "bigdir: $ENTRIES entries listed by readdir, ls and cairn ls"
}
for p in $PARTS; do "part_$p"; done
healthy || die "not healthy: $(status)"
end INT up
say "passed"
