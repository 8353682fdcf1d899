#!/bin/sh
# Measures on a GPU what doc/gpu.md says has to hold there, ours and each peer
# in one run: experts, rows to their pairs and back, dispatch among ranks, a
# layer from a graph, experts that come over the bus. About 10 minutes.
#
# usage: bench/gpu.sh [BUILD [STORE]] >gpu.jsonl
#
# BUILD: where make ran, or a copy of it, or . ; STORE: where the experts that
# come over are kept, 2.4 GB, made if there is none. DEVICE=cuda:1 takes another
# GPU, DEVICE=host none at all, and small shapes. What is missing, PyTorch for
# one, is named on stderr and left out. Exit status 77: there is no such device.
build=${1:-.}
store=${2:-gpu_stream.store}
device=${DEVICE:-cuda}
here=$(dirname "$0")
status=0

# measure COMMAND...: its lines, or why there are none
measure() {
    lines=$("$@")
    code=$?
    if [ $code -eq 0 ]; then
        printf '%s\n' "$lines"
        return
    fi
    echo "gpu.sh: left out: $*: ${lines:-failed}" >&2
    [ $status -eq 0 ] && status=$code
}

for program in gpu gpu_dispatch gpu_stream; do
    if [ ! -x "$build/bench/$program" ]; then
        echo "$0: no $build/bench/$program; run make there, or name the" \
            "folder where it ran" >&2
        exit 2
    fi
done
if [ "$device" = host ]; then
    measure "$build/bench/gpu" --device host --shape S --tokens 1,16 --runs 3
    measure "$build/bench/gpu_dispatch" --device host --ranks 4 --tokens 8 \
        --hidden 64 --experts 16 --k 4 --ffn 32 --runs 3
    measure python3 "$here/gpu_peers.py" --device cpu --shape S --tokens 1,16 \
        --runs 3
    exit $status
fi
for shape in Q M; do
    measure "$build/bench/gpu" --device "$device" --shape $shape
    measure python3 "$here/gpu_peers.py" --device "$device" --shape $shape
done
measure "$build/bench/gpu" --device "$device" --shape D --tokens 4096
measure python3 "$here/gpu_peers.py" --device "$device" --shape D --tokens 4096
measure "$build/bench/gpu_dispatch" --device "$device"
measure "$build/bench/gpu_stream" "$store" --device "$device"
exit $status
