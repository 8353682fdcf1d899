#!/bin/sh
# What coterie writes as a placement is what doc/placement.schema.json says, and
# what is none of that is refused by both. Skipped without python3-jsonschema.
# Environment (see tests/local.mk): COTERIE_COMMAND, COTERIE_SCHEMA.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -c 'import jsonschema' 2>/dev/null || {
    echo "no python3-jsonschema"
    exit 77
}

# valid FILE
valid() {
    python3 - "$COTERIE_SCHEMA" "$1" <<'END'
import json, sys, jsonschema
schema, document = (json.load(open(path)) for path in sys.argv[1:])
try:
    jsonschema.validate(document, schema)
except jsonschema.ValidationError as error:
    sys.exit(error.message)
END
}

echo '{"physical_to_logical_map": [[0, 1, 2, 1], [2, 1, 0, 2]]}' >"$work/eplb"
"$COTERIE_COMMAND" convert "$work/eplb" --ranks 2 -o "$work/own"
valid "$work/own"

for key in format version slot_rank physical_to_logical_map; do
    jq "del(.$key)" "$work/own" >"$work/less"
    if valid "$work/less" 2>/dev/null; then
        echo "valid without $key"
        exit 1
    fi
done
jq '.physical_to_logical_map[0][0] = -2' "$work/own" >"$work/wrong"
if valid "$work/wrong" 2>/dev/null; then
    echo "valid with expert -2"
    exit 1
fi
