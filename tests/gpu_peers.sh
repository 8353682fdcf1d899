#!/bin/sh
# bench/gpu_peers.py where it cannot measure: it says why in one line.
command -v python3 >/dev/null || exit 77
script=$(dirname "$0")/../bench/gpu_peers.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONDONTWRITEBYTECODE=1

# expect STATUS PATTERN ARGUMENT...: its status, and its only line
expect() {
    want=$1
    pattern=$2
    shift 2
    said=$(PYTHONPATH=$work python3 "$script" "$@" 2>/dev/null)
    got=$?
    if [ $got -ne "$want" ] || [ "$(printf %s "$said" | grep -c '')" -gt 1 ] ||
        ! printf '%s\n' "$said" | grep -q "$pattern"; then
        echo "gpu_peers.py $*: status $got, not $want: $said" >&2
        exit 1
    fi
}

echo 'raise ImportError("not here")' >"$work/torch.py"
expect 2 '^$' --shape X
expect 2 '^$' --tokens 0
expect 2 '^$' --tokens 1,,2
expect 2 '^$' --runs none
expect 77 '^SKIP: no PyTorch: not here$' --tokens 1,8
cat >"$work/torch.py" <<'P'
class cuda:
    @staticmethod
    def is_available():
        return False
P
expect 77 '^SKIP: PyTorch has no GPU here$'
