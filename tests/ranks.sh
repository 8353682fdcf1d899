#!/bin/sh
# The same greedy text, on the shipped model, from every number of ranks, every
# mode and both transports; and `coterie sim` foretells the counters.
# Environment (see tests/local.mk): COTERIE_COMMAND, COTERIE_EXAMPLES,
# COTERIE_TEST_DATA.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$COTERIE_EXAMPLES/tiny-moe
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1
prompts="--prompt Fellow-Citizens --prompt static --prompt The --tokens 12"

# generate NAME OPTIONS...: figures and text into NAME.json
generate() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$COTERIE_COMMAND" run "$model" $prompts --json "$@" \
        >"$work/$name.json" 2>"$work/$name.log" || {
        cat "$work/$name.log"
        return 1
    }
}

tokens() {
    jq -c '[.sequences[].tokens]' "$work/$1.json"
}

same() {
    [ "$(tokens "$1")" = "$(tokens one)" ] || {
        echo "$1: other text than one rank's"
        exit 1
    }
}

generate one --ranks 1
for ranks in 2 4 8; do
    for mode in two-phase owner forward auto; do
        generate "$mode" --ranks $ranks --dispatch $mode
        same "$mode"
    done
done
generate across --ranks 4 --nodes 2 --group across --dispatch forward
same across

# foretold OPTIONS...: a run's counters, whole objects, are what sim counts.
foretold() {
    generate counted --ranks 4 "$@" --trace "$work/trace.npz" --force
    "$COTERIE_COMMAND" sim "$work/trace.npz" --ranks 4 --model "$model" \
        --json "$@" >"$work/sim.json"
    for file in counted sim; do
        jq -S '{prefill, decode}' "$work/$file.json" >"$work/$file.counts"
    done
    diff "$work/sim.counts" "$work/counted.counts" || {
        echo "$*: sim (<) and the run (>) count differently"
        exit 1
    }
}

foretold --dispatch two-phase
foretold --dispatch owner
foretold --dispatch forward
foretold --dispatch owner --nodes 2 --group node
foretold --dispatch forward --nodes 2 --group across
model=$COTERIE_TEST_DATA/models/qwen2-moe-step # with dense layers between
foretold --dispatch owner
foretold --dispatch forward
model=$COTERIE_TEST_DATA/models/deepseek-v2 # with dense ones at the beginning
foretold --dispatch owner
foretold --dispatch forward
model=$COTERIE_EXAMPLES/tiny-moe

# TSan does not know Open MPI's own locks, and LSan not its own leaks.
if [ "${COTERIE_SANITIZERS:-no}" != thread ] &&
    "$COTERIE_COMMAND" info --json | jq -e .mpi >/dev/null; then
    export ASAN_OPTIONS="detect_leaks=0"
    for mode in two-phase owner forward; do
        # shellcheck disable=SC2086
        mpirun -n 4 "$COTERIE_COMMAND" run "$model" $prompts --json \
            --ranks 4 --transport mpi --dispatch $mode \
            >"$work/mpi.json" 2>"$work/mpi.log" || {
            cat "$work/mpi.log"
            exit 1
        }
        same mpi
    done
fi
