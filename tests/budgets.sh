#!/bin/sh
# The same text with any budget, by every dispatch mode and number of ranks, of
# threads and of processes; and processes on one machine read no expert twice,
# though each of them has every one.
# Environment (see tests/local.mk): COTERIE_COMMAND, COTERIE_EXAMPLES.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1
prompts="--prompt Fellow-Citizens --prompt static --prompt The --tokens 12"
store=$work/store
"$COTERIE_COMMAND" pack "$COTERIE_EXAMPLES/tiny-moe" -o "$store" 2>/dev/null

fail() {
    echo "$*" >&2
    exit 1
}

# generate NAME COMMAND...: figures and text into NAME.json
generate() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$@" run "$store" $prompts --json $options >"$work/$name.json" \
        2>"$work/log" || fail "$options: $(cat "$work/log")"
}

# same NAME: the text is that of one rank with all experts in memory
same() {
    [ "$(jq -c '[.sequences[].tokens]' "$work/$1.json")" = "$right" ] ||
        fail "$options: another text"
}

offload() {
    jq -c ".offload$2" "$work/$1.json"
}

options=
generate one "$COTERIE_COMMAND"
right=$(jq -c '[.sequences[].tokens]' "$work/one.json")

# threads OPTIONS...: with a budget of all ranks', which is kept
threads() {
    options=$*
    generate threads "$COTERIE_COMMAND"
    same threads
    offload threads "" |
        jq -e '.resident_most <= .budget + .host_budget and .bytes > 0' \
            >/dev/null || fail "$options: $(offload threads "")"
}

threads --budget 1% --policy lru
for ranks in 2 4; do
    for mode in two-phase owner forward auto; do
        threads --ranks $ranks --dispatch $mode --budget 1% --policy lfu
        threads --ranks $ranks --dispatch $mode --budget 8% \
            --host-budget 15% --policy cost
    done
done

# TSan does not know Open MPI's own locks, and LSan not its own leaks.
if [ "${COTERIE_SANITIZERS:-no}" = thread ] ||
    ! "$COTERIE_COMMAND" info --json | jq -e .mpi >/dev/null; then
    exit 0
fi
export ASAN_OPTIONS="detect_leaks=0"

# everywhere RANKS: a placement in which each rank has all experts
everywhere() {
    jq -n "[range(16)] as \$all | [range($1) as \$r | \$all[] | \$r] as \$rank |
        {format: \"coterie-placement\", version: 1, layer_count: 8,
         expert_count: 16, rank_count: $1, node_count: 1, slot_rank: \$rank,
         physical_to_logical_map:
             [range(8) | [range($1) | \$all[]]]}" >"$work/all-$1.json"
}

for ranks in 2 3 4; do
    everywhere $ranks
    options="--ranks $ranks --transport mpi --dispatch owner --budget 100%
        --placement $work/all-$ranks.json"
    generate mpi mpirun -n $ranks "$COTERIE_COMMAND"
    same mpi
    offload mpi "" |
        jq -e ".tiers == 1 and .processes == $ranks and .bytes <= .budget" \
            >/dev/null || fail "$ranks processes: $(offload mpi "")"
    options="--ranks $ranks --transport mpi --dispatch forward --budget 8%
        --host-budget 15%"
    generate mpi mpirun -n $ranks "$COTERIE_COMMAND"
    same mpi
done
