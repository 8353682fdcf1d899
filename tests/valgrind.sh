#!/bin/sh
# Serving with a budget, and what goes with it, makes no wrong access and loses
# no memory, as valgrind sees it. It takes half a minute, so `make check` leaves
# it to `make check-valgrind`.
# Environment (see tests/local.mk): COTERIE_COMMAND, COTERIE_EXAMPLES.
set -eu
if [ "${COTERIE_SANITIZERS:-no}" != no ]; then
    echo "skipped: sanitizers see the same"
    exit 77
fi
libtool=$(dirname "$COTERIE_COMMAND")/libtool
if ! command -v valgrind >/dev/null || [ ! -x "$libtool" ]; then
    echo "skipped: no valgrind here, or no build tree"
    exit 77
fi
export COTERIE_ISA=avx2 # valgrind knows no AVX-512
if ! "$COTERIE_COMMAND" info --json 2>/dev/null |
    jq -e '.kernels == "avx2"' >/dev/null; then
    echo "skipped: this processor has no instructions that valgrind knows"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
store=$work/store

# watched STATUS COMMAND...: what is wrong is printed, and ends the test
watched() {
    wanted=$1
    shift
    code=0
    "$libtool" --mode=execute valgrind -q --error-exitcode=9 \
        --leak-check=full --show-leak-kinds=definite,possible \
        --errors-for-leak-kinds=definite,possible \
        "$COTERIE_COMMAND" "$@" >"$work/out" 2>"$work/err" || code=$?
    if [ "$code" != "$wanted" ]; then
        echo "$*: status $code, not $wanted" >&2
        cat "$work/err" >&2
        exit 1
    fi
}

watched 0 pack "$COTERIE_EXAMPLES/tiny-moe" -o "$store" \
    --stripe "$work/stripe"
run="run $store --prompt The --tokens 8"
# shellcheck disable=SC2086
for options in "--budget 25% --ranks 2 --policy cost --host-budget 20%" \
    "--budget 25% --policy lfu --hot $work/hot --trace $work/trace.npz" \
    "--budget 25% --hot $work/hot --dispatch forward --ranks 2" \
    "--budget 1% --polling sqpoll"; do
    watched 0 $run $options
done
# shellcheck disable=SC2086
watched 1 $run --budget 1
watched 0 cache "$work/trace.npz" --budget 25% --policy cost
watched 0 predict "$work/trace.npz"
dd if=/dev/zero of="$store" bs=1024 seek=1000 count=4000 conv=notrunc \
    2>/dev/null
# shellcheck disable=SC2086
watched 1 $run --budget 25%
