#!/bin/sh
# Whatever goes wrong, there is the same text or one clear error, and stores and
# hot files stay whole: processes are killed at any moment, files are cut,
# changed or replaced while they are read, and writing hits a limit.
# Environment (see tests/local.mk): COTERIE_COMMAND, COTERIE_EXAMPLES.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$COTERIE_EXAMPLES/tiny-moe
store=$work/store

fail() {
    echo "$*" >&2
    exit 1
}

# text STORE OPTIONS...: what a run with a small budget says
text() {
    from=$1
    shift
    timeout 120 "$COTERIE_COMMAND" run "$from" --prompt The --tokens 48 \
        --budget 15% --ranks 2 "$@"
}

"$COTERIE_COMMAND" pack "$model" -o "$store" 2>"$work/log" || {
    cat "$work/log"
    exit 1
}
right=$(text "$store" 2>/dev/null)

# killed DELAY COMMAND...: starts it, and kills it after so many seconds
killed() {
    delay=$1
    shift
    "$@" >/dev/null 2>&1 &
    sleep "$delay"
    kill -KILL $! 2>/dev/null || true
    wait $! 2>/dev/null || true
}

delays="0.002 0.02 0.04 0.07 0.12"
for delay in $delays; do
    killed "$delay" "$COTERIE_COMMAND" pack "$model" -o "$store" --force
    [ "$(text "$store" 2>/dev/null)" = "$right" ] ||
        fail "not the same text after pack was killed at $delay s"
    killed "$delay" "$COTERIE_COMMAND" pack "$model" -o "$work/new"
    [ ! -e "$work/new" ] ||
        [ "$(text "$work/new" 2>/dev/null)" = "$right" ] ||
        fail "half a store after $delay s"
    rm -f "$work"/new*
    killed "$delay" "$COTERIE_COMMAND" pack "$model" -o "$work/new" \
        --stripe "$work/new-stripe"
    [ ! -e "$work/new" ] ||
        [ "$(text "$work/new" 2>/dev/null)" = "$right" ] ||
        fail "half a striped store after $delay s"
    rm -f "$work"/new*
    killed "$delay" "$COTERIE_COMMAND" run "$store" --prompt The --tokens 8 \
        --budget 15% --hot "$work/hot"
    [ "$(text "$store" --hot "$work/hot" 2>/dev/null)" = "$right" ] ||
        fail "a hot file that cannot be read after $delay s"
done

# disturbed NAME COMMAND...: runs while the command harms the store. The text is
# right, or there is none and one line tells why.
disturbed() {
    name=$1
    shift
    cp "$store" "$work/harmed"
    text "$work/harmed" >"$work/out" 2>"$work/err" &
    sleep "$moment"
    "$@"
    if wait $!; then
        [ "$(cat "$work/out")" = "$right" ] || fail "$name: another text"
    else
        [ ! -s "$work/out" ] || fail "$name: text in spite of a failure"
        [ "$(grep -c '^coterie run: ' "$work/err")" = 1 ] ||
            fail "$name: not one line: $(cat "$work/err")"
    fi
}

# harm BYTES: writes over the records' middle
harm() {
    dd if=/dev/zero of="$work/harmed" bs=1024 seek=2000 count="$1" \
        conv=notrunc 2>/dev/null
}
cut_off() { truncate -s 5000000 "$work/harmed"; }
empty() { : >"$work/harmed"; }
replace() {
    head -c 100000 "$store" >"$work/other"
    mv "$work/other" "$work/harmed"
}

for moment in 0.03 0.1 0.2; do
    disturbed "cut short" cut_off
    disturbed "emptied" empty
    disturbed "written over" harm 4000
    disturbed "replaced" replace
done
rm "$work/harmed"

# limited NAME COMMAND...: writing more than a few KiB fails, with one line
limited() {
    name=$1
    shift
    code=0
    line=$(
        trap '' XFSZ
        ulimit -f 1
        "$@" 2>&1 >/dev/null
    ) || code=$?
    [ "$code" = 1 ] || fail "$name: status $code: $line"
    echo "$line" | grep -q "$work" || fail "$name: names no file: $line"
}

limited pack "$COTERIE_COMMAND" pack "$model" -o "$work/new"
limited stripe "$COTERIE_COMMAND" pack "$model" -o "$work/new" \
    --stripe "$work/new-stripe"
cp "$work/hot" "$work/hot-before"
limited hot "$COTERIE_COMMAND" run "$store" --prompt The --tokens 8 \
    --budget 15% --hot "$work/hot"
cmp "$work/hot" "$work/hot-before"
limited trace "$COTERIE_COMMAND" run "$store" --prompt The --tokens 48 \
    --trace "$work/trace.npz"
rm -f "$work/hot-before"
left=$(find "$work" -name 'new*' -o -name 'trace*' -o -name 'hot.*')
[ -z "$left" ] || fail "left behind: $left"
