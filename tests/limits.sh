#!/bin/sh
# Where there is less than was asked for: on a file system that is full, nothing
# is half written, what was there stays, and one line tells why; a budget beyond
# the container's memory is lowered or refused, in one line. Both are made with
# mounts that only this test sees.
# Environment (see tests/local.mk): COTERIE_COMMAND, COTERIE_EXAMPLES.
set -eu
if [ "${1:-}" != inside ]; then
    if ! unshare -rm mount -t tmpfs none /sys/fs/cgroup 2>/dev/null; then
        echo "skipped: no mounts of one's own here"
        exit 77
    fi
    # a group of version 2, or of memory
    if ! grep -Eq '^[0-9]+:(([^:]*,)?memory(,[^:]*)?)?:' /proc/self/cgroup; then
        echo "skipped: no control group of memory here"
        exit 77
    fi
    exec unshare -rm "$0" inside
fi
work=$(mktemp -d)
trap 'umount "$work/small" 2>/dev/null || true; rm -rf "$work"' EXIT
model=$COTERIE_EXAMPLES/tiny-moe
store=$work/store
small=$work/small

fail() {
    echo "$*" >&2
    exit 1
}

# refused WORDS COMMAND...: ends with status 1 and one line that says so
refused() {
    words=$1
    shift
    code=0
    "$COTERIE_COMMAND" "$@" >"$work/out" 2>"$work/err" || code=$?
    [ "$code" = 1 ] || fail "$*: status $code: $(cat "$work/err")"
    [ "$(grep -c '^coterie ' "$work/err")" = 1 ] ||
        fail "$*: not one line: $(cat "$work/err")"
    grep '^coterie ' "$work/err" | grep -q "$words" ||
        fail "$*: $(cat "$work/err")"
}

# full COMMAND...: refused, because nothing more fits
full() {
    refused "$small.*No space left on device" "$@"
    [ "$(ls -A "$small")" = "$there" ] ||
        fail "$*: left behind: $(ls -A "$small")"
}

"$COTERIE_COMMAND" pack "$model" -o "$store" 2>/dev/null
asked="--prompt The --tokens 8"
# shellcheck disable=SC2086
"$COTERIE_COMMAND" run "$store" $asked --trace "$work/trace.npz" \
    --budget 15% --hot "$work/hot" >"$work/right" 2>/dev/null
mkdir "$small"

mount -t tmpfs -o size=18m none "$small"
cp "$store" "$small/store"
there=store
full pack "$model" -o "$small/new"
full pack "$model" -o "$small/store" --force
full pack "$model" -o "$work/new" --stripe "$small/stripe"
[ ! -e "$work/new" ] || fail "a store without its stripe"
cmp "$store" "$small/store"

cp "$work/hot" "$small/hot"
dd if=/dev/zero of="$small/rest" bs=4096 2>/dev/null || true
there=$(printf 'hot\nrest\nstore')
# shellcheck disable=SC2086
full run "$store" $asked --budget 15% --hot "$small/hot"
# shellcheck disable=SC2086
full run "$store" $asked --trace "$small/trace.npz"
full cache "$work/trace.npz" --budget 15% --hot "$small/hot"
cmp "$work/hot" "$small/hot"
# shellcheck disable=SC2086
for command in "run $store $asked" "run $store $asked --json" \
    "cache $work/trace.npz --budget 15%" "predict $work/trace.npz --json" \
    "info $store"; do
    code=0
    "$COTERIE_COMMAND" $command >/dev/full 2>"$work/err" || code=$?
    [ "$code" = 1 ] || fail "$command: status $code on a full device"
    grep -q 'standard output: not written' "$work/err" ||
        fail "$command: $(cat "$work/err")"
done

# limited BYTES OPTIONS...: a run in a container that has so many in all, of
# which nothing is used
limited() {
    mkdir -p /sys/fs/cgroup/memory
    for file in memory.max memory/memory.limit_in_bytes; do
        echo "$1" >"/sys/fs/cgroup/$file"
    done
    for file in memory.current memory/memory.usage_in_bytes; do
        echo 0 >"/sys/fs/cgroup/$file"
    done
    shift
    # shellcheck disable=SC2086
    "$COTERIE_COMMAND" run "$store" $asked --json "$@" >"$work/json" \
        2>"$work/err" || fail "$*: $(cat "$work/err")"
    [ "$(jq -r '.sequences[0].text' "$work/json")" = "$text" ] ||
        fail "$*: another text"
}
lowered() {
    [ "$(grep -c 'container has left' "$work/err")" = "$1" ] ||
        fail "not told once: $(cat "$work/err")"
    jq -e ".offload | .budget + .host_budget <= $2 and
        .resident_most <= $2 and .memory_limit == $2" "$work/json" \
        >/dev/null || fail "beyond $2: $(jq .offload "$work/json")"
}
# shellcheck disable=SC2086
text=$("$COTERIE_COMMAND" run "$store" $asked --json 2>/dev/null |
    jq -r '.sequences[0].text')
mount -t tmpfs none /sys/fs/cgroup
limited 4000000 --budget 80%
lowered 1 4000000
limited 4000000 --budget 10% --host-budget 80%
lowered 1 4000000
limited 4000000 --budget 2000000 --host-budget 80% --ranks 2
lowered 1 4000000
limited 4000000 --budget 10%
lowered 0 4000000
# shellcheck disable=SC2086
refused "limited to 4000000" run "$store" $asked --budget 5000000
# shellcheck disable=SC2086
refused "limited to 4000000" run "$store" $asked --budget 2M --host-budget 3M
