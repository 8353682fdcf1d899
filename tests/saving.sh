#!/bin/sh
# What placement promises on the shipped model, four ranks, decoding text that
# was not used for placement: owner moves at most 0.60 of the copies of
# two-phase with experts in order, forward at most 0.80 with one communication a
# layer instead of two, and GLPK proves the placement.
# Environment: COTERIE_COMMAND, COTERIE_EXAMPLES (see tests/local.mk).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$COTERIE_EXAMPLES/tiny-moe

if [ "${COTERIE_SANITIZERS:-no}" != no ]; then
    echo "skipped: a proof takes too long under a sanitizer"
    exit 77
fi
if ! "$COTERIE_COMMAND" info --json | jq -e .glpk >/dev/null; then
    echo "skipped: built without GLPK"
    exit 77
fi

# prompts NAME BYTES COUNT: pieces of each kind of text, as options
prompts() {
    for file in "$model/text/$1"-*.txt; do
        kind=$(basename "$file" .txt)
        split -a 3 -b "$2" -d "$file" "$work/$kind-"
        find "$work" -name "$kind-[0-9]*" | sort | head -n "$3"
    done | sed 's/^/--prompt-file /'
}

# shellcheck disable=SC2046
"$COTERIE_COMMAND" run "$model" $(prompts place 256 16) --tokens 4 --ranks 4 \
    --trace "$work/trace.npz" >/dev/null 2>&1
"$COTERIE_COMMAND" place "$work/trace.npz" --ranks 4 -o "$work/p.json" \
    --time-limit 300 --json >"$work/place.json"
proved() {
    jq -e .proved "$1" >/dev/null || {
        echo "not proved optimal:"
        cat "$1"
        exit 1
    }
}
proved "$work/place.json"
"$COTERIE_COMMAND" place "$work/trace.npz" --ranks 2 -o "$work/two.json" \
    --time-limit 300 --json >"$work/place-two.json"
proved "$work/place-two.json"

held=$(prompts held 192 3)
# copies NAME OPTIONS...: per token and layer in decode, and the figures kept
copies() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$COTERIE_COMMAND" run "$model" $held --tokens 24 --ranks 4 --json "$@" \
        >"$work/$name.json" 2>/dev/null
    jq .decode.copies_per_token_layer "$work/$name.json"
}

order=$(copies order --dispatch two-phase)
owner=$(copies owner --dispatch owner --placement "$work/p.json")
forward=$(copies forward --dispatch forward --placement "$work/p.json")
echo "copies: two-phase in order $order, placed: owner $owner, forward $forward"
jq -e -n "$owner <= 0.60 * $order and $forward <= 0.80 * $order" >/dev/null
jq -e '.decode.communications_per_layer == 1' "$work/forward.json" >/dev/null
jq -e '.decode.communications_per_layer == 2' "$work/order.json" >/dev/null
