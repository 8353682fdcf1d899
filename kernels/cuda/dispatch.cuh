#ifndef COTERIE_KERNELS_CUDA_DISPATCH_CUH
#define COTERIE_KERNELS_CUDA_DISPATCH_CUH
/* What dispatch's kernels share: rows of values, and the ends of a message. */
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warp.cuh"

enum { DISPATCH_THREADS = 256, DISPATCH_WARPS = DISPATCH_THREADS / WARP };

struct eight_t {
    float v[8];
};

/* Elements 8 i to 8 i + 7 of a row, f32 or bf16. */
static __device__ __forceinline__ eight_t eight_load(const void *row,
                                                     uint32_t type, uint32_t i)
{
    eight_t e;

    if (type == COTERIE_WIRE_BF16) {
        const uint4 bits = ((const uint4 *)row)[i];
        const uint32_t pair[] = {bits.x, bits.y, bits.z, bits.w};
        for (int j = 0; j < 8; j++)
            e.v[j] = bf16_widen((uint16_t)(pair[j / 2] >> 16 * (j % 2)));
    } else {
        const float4 low = ((const float4 *)row)[2 * i];
        const float4 high = ((const float4 *)row)[2 * i + 1];
        e = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    }
    return e;
}

static __device__ __forceinline__ void
eight_store(void *row, uint32_t type, uint32_t i, const eight_t &e)
{
    if (type == COTERIE_WIRE_BF16) {
        uint32_t pair[4];
        for (int j = 0; j < 4; j++)
            pair[j] = bf16_narrow(e.v[2 * j]) |
                      (uint32_t)bf16_narrow(e.v[2 * j + 1]) << 16;
        ((uint4 *)row)[i] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    } else {
        ((float4 *)row)[2 * i] = {e.v[0], e.v[1], e.v[2], e.v[3]};
        ((float4 *)row)[2 * i + 1] = {e.v[4], e.v[5], e.v[6], e.v[7]};
    }
}

static __device__ __forceinline__ size_t row_size(uint32_t type,
                                                  uint32_t hidden)
{
    return (size_t)hidden * (type == COTERIE_WIRE_BF16 ? 2 : 4);
}

static __device__ __forceinline__ char *
inbox_slot(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
           coterie_gpu_parcel_t parcel, uint32_t from)
{
    return rank.inbox[parcel] + from * coterie_gpu_slot_size(&d, parcel);
}

static __device__ __forceinline__ bool
both_active(const coterie_gpu_rank_t &rank, uint32_t peer)
{
    return rank.active[rank.rank] && rank.active[peer];
}

/* Whether this block is the last of its rank's to come here: it then sees what
 * all of them wrote. `word` is shared. */
static __device__ __forceinline__ bool last_block(uint32_t *done,
                                                  uint32_t *word)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence_system();
        *word = atomicAdd(done, 1u) == gridDim.x - 1;
        __threadfence_system();
    }
    __syncthreads();
    return *word != 0;
}

static __device__ __forceinline__ void
message_count(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
              coterie_gpu_parcel_t parcel, uint32_t to, uint32_t rows)
{
    coterie_gpu_counts_t *counts = rank.counts;
    const bool reached = rank.flag[to] != NULL;
    const size_t row = coterie_gpu_row_size(&d);
    const size_t more = parcel == COTERIE_GPU_DISPATCH
                            ? coterie_gpu_record_size(d.k)
                            : sizeof(uint32_t);
    const size_t size =
        reached ? sizeof(coterie_gpu_head_t) + rows * (row + more)
                : coterie_gpu_slot_size(&d, parcel);

    atomicAdd(&counts->copies[parcel], (unsigned long long)rows);
    atomicAdd(&counts->payload_bytes, (unsigned long long)(rows * row));
    atomicAdd(&counts->wire_bytes, (unsigned long long)size);
    atomicAdd(rows > 0 ? &counts->messages : &counts->empty_messages, 1ull);
    if (to / d.tables.node_ranks != rank.rank / d.tables.node_ranks)
        atomicAdd(&counts->copies_network, (unsigned long long)rows);
}

/* By a rank's last block: heads the messages and raises their flags. */
static __device__ __forceinline__ void
messages_seal(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
              coterie_gpu_parcel_t parcel)
{
    const uint32_t ranks = d.tables.rank_count;
    const uint32_t sequence = rank.sequence[parcel] + 1;
    uint32_t *sent = rank.sent + parcel * ranks;

    for (uint32_t to = threadIdx.x; to < ranks; to += blockDim.x) {
        coterie_gpu_head_t head = {min(sent[to], d.capacity), 0, {0, 0}};

        sent[to] = 0;
        if (!both_active(rank, to))
            continue;
        if (parcel == COTERIE_GPU_DISPATCH)
            head.owned = rank.owned[to];
        *(coterie_gpu_head_t *)rank.to[parcel][to] = head;
        if (to != rank.rank)
            message_count(d, rank, parcel, to, head.count);
        if (rank.flag[to] != NULL)
            flag_raise(rank.flag[to] + parcel * ranks, sequence);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        rank.sequence[parcel] = sequence;
        rank.done[parcel] = 0;
    }
}

/* Until a message of every rank is there, or the deadline is over; counts gets
 * their rows, none of one that is late. Once one was, nobody waits any more.
 * All threads call it. */
static __device__ __forceinline__ void
messages_await(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
               coterie_gpu_parcel_t parcel, uint32_t *counts)
{
    const uint32_t ranks = d.tables.rank_count;
    const uint32_t sequence = rank.sequence[parcel];
    const uint64_t start = timer_ns();
    const uint64_t deadline = rank.counts->late != 0 ? 0 : d.deadline_ns;

    for (uint32_t from = threadIdx.x; from < ranks; from += blockDim.x) {
        const uint32_t *flag = rank.flags + parcel * ranks + from;
        const coterie_gpu_head_t *head =
            (const coterie_gpu_head_t *)inbox_slot(d, rank, parcel, from);
        bool there = rank.flag[from] == NULL;

        counts[from] = 0;
        if (!both_active(rank, from))
            continue;
        while (!there) {
            there = (int32_t)(flag_read(flag) - sequence) >= 0;
            if (!there && timer_ns() - start >= deadline)
                break;
        }
        if (there)
            counts[from] = min(head->count, d.capacity);
        else
            atomicCAS(&rank.counts->late, 0u, from + 1);
    }
    __syncthreads();
}

#endif
