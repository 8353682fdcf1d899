#!/bin/sh
# Measures what doc/kernels.md's table holds: bench/kernels for shapes, types of
# weights, numbers of tokens and of threads, beside the peers that were built.
# Sides take turns within each run. About 12 minutes on two cores, alone.
#
# usage: bench/kernels.sh [BUILD [quick]] >kernels.jsonl
#
# BUILD: where make ran, or `.`; quick: one token and two threads alone, to see
# in a minute that all of it works.
#
# A setting that fails, for want of memory say, is left out and named.
build=${1:-.}
quick=${2:-}
bench=$build/bench/kernels
if [ ! -x "$bench" ]; then
    echo "$0: no $bench; run make there, or name the folder where it ran" >&2
    exit 2
fi
peers=
for peer in ggml ik onednn; do
    module=$build/bench/.libs/peer-$peer.so
    [ -e "$module" ] && peers="$peers --peer $module"
done

# measure SHAPE DTYPE COMPUTE TOKENS THREADS SECONDS
measure() {
    [ -n "$quick" ] && set -- "$1" "$2" "$3" 1 2 0.01
    # shellcheck disable=SC2086 # peers are several words
    "$bench" --shape "$1" --dtype "$2" --compute "$3" --tokens "$4" \
        --threads "$5" --seconds "$6" $peers ||
        echo "$0: left out: shape $1, $2 with $3 products" >&2
}

for kind in "bf16 bf16" "f32 f32" "int8 int8" "int8-group int8" "int4 int8" \
    "int4-zero int8" "mxfp4 int8" "fp8 bf16" "f16 f32"; do
    # shellcheck disable=SC2086 # a type and its products
    measure Q $kind 1,8 1,2 3
    # shellcheck disable=SC2086
    measure Q $kind 64,512 1,2 1.5
done
for shape in M D; do
    for kind in "bf16 bf16" "int8-group int8" "int4 int8"; do
        # shellcheck disable=SC2086
        measure $shape $kind 1,8 1,2 3
        # shellcheck disable=SC2086
        measure $shape $kind 64,512 1,2 1
    done
    measure $shape f32 f32 64,512 2 1
done
