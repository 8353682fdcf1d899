#ifndef COTERIE_KERNELS_CUDA_DISPATCH_CUH
#define COTERIE_KERNELS_CUDA_DISPATCH_CUH
/* What dispatch's kernels share: rows of values, and the ends of a message. */
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warp.cuh"

enum {
    DISPATCH_THREADS = 256,
    DISPATCH_WARPS = DISPATCH_THREADS / WARP,
    AHEAD_MAX = 1 /* messages, that a sender may be ahead of who reads */
};

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

/* A block's, in shared memory; three arrays of [ranks] follow it. */
struct arriving_t {
    uint32_t word, place;
    float part[DISPATCH_WARPS];
    const char *sum[COTERIE_K_MAX + 1]; /* of a row; NULL: none */
};

/* What a rank sent here. */
struct arrived_t {
    uint32_t *count, *owned_first; /* owned_first[ranks]: of all */
};

static inline cudaLaunchConfig_t launch_rows(void *stream,
                                             const coterie_gpu_dispatch_t *d)
{
    return launch_of(stream, dim3(d->blocks, d->count), DISPATCH_THREADS,
                     sizeof(arriving_t) +
                         (2 * d->tables.rank_count + 1) * sizeof(uint32_t));
}

static __device__ __forceinline__ uint32_t
rows_here(const coterie_gpu_rows_t &rows)
{
    return min(*rows.count, rows.capacity);
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

/* Not raw. */
static __device__ __forceinline__ coterie_gpu_record_t
record_of(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
          const coterie_gpu_rows_t &rows, uint32_t row)
{
    coterie_gpu_record_t record = {rows.key != NULL ? rows.key[row] : row,
                                   rank.number[row],
                                   rank.routes[row].next_owner,
                                   0, 0, 0};

    if (!d.forward)
        return record;
    record.number = rows.seat != NULL ? rows.seat[row] : row;
    record.holders = coterie_gpu_holders(&rows, row);
    record.next = rank.next[row];
    return record;
}

/* Counts what goes to a peer, but not that a message does. */
static __device__ __forceinline__ void
rows_count(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
           coterie_gpu_parcel_t parcel, uint32_t to, uint32_t rows)
{
    coterie_gpu_counts_t *counts = rank.counts;
    const size_t row = coterie_gpu_row_size(&d);
    const size_t size =
        rank.flag[to] != NULL
            ? sizeof(coterie_gpu_head_t) +
                  rows * (row + coterie_gpu_extra(&d, parcel))
            : coterie_gpu_slot_size(&d, parcel);

    atomicAdd(&counts->copies[coterie_gpu_counted_as(parcel)],
              (unsigned long long)rows);
    atomicAdd(&counts->payload_bytes, (unsigned long long)(rows * row));
    atomicAdd(&counts->wire_bytes, (unsigned long long)size);
    if (to / d.tables.node_ranks != rank.rank / d.tables.node_ranks)
        atomicAdd(&counts->copies_network, (unsigned long long)rows);
}

static __device__ __forceinline__ void
message_count(const coterie_gpu_rank_t &rank, uint32_t rows)
{
    atomicAdd(rows > 0 ? &rank.counts->messages : &rank.counts->empty_messages,
              1ull);
}

/* Heads the message that is being written to a peer, and gives its rows. */
static __device__ __forceinline__ uint32_t
message_head(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
             coterie_gpu_parcel_t parcel, uint32_t to, uint32_t owned)
{
    uint32_t *sent = rank.sent + parcel * d.tables.rank_count + to;
    const coterie_gpu_head_t head = {min(*sent, d.capacity), owned, {0, 0}};

    *sent = 0;
    if (coterie_gpu_both_active(&rank, to))
        *(coterie_gpu_head_t *)coterie_gpu_outbound(&d, &rank, parcel, to) =
            head;
    return head.count;
}

static __device__ __forceinline__ void
message_flag(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
             coterie_gpu_parcel_t parcel, uint32_t to, uint32_t sequence)
{
    if (rank.flag[to] != NULL)
        flag_raise(rank.flag[to] + parcel * d.tables.rank_count, sequence);
}

/* By a rank's last block: heads the messages and raises their flags. */
static __device__ __forceinline__ void
messages_seal(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
              coterie_gpu_parcel_t parcel)
{
    const uint32_t ranks = d.tables.rank_count;
    const uint32_t sequence = rank.sequence[parcel] + 1;

    for (uint32_t to = threadIdx.x; to < ranks; to += blockDim.x) {
        const uint32_t owned =
            parcel == COTERIE_GPU_DISPATCH ? rank.owned[to] : 0;
        const uint32_t count = message_head(d, rank, parcel, to, owned);

        if (!coterie_gpu_both_active(&rank, to))
            continue;
        if (to != rank.rank) {
            rows_count(d, rank, parcel, to, count);
            message_count(rank, count);
        }
        message_flag(d, rank, parcel, to, sequence);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        rank.sequence[parcel] = sequence;
        rank.done[parcel] = 0;
    }
}

/* Until a message of every rank is there, or the deadline is over; counts gets
 * their rows, none of one that is late. Once one was, nobody waits any more. A
 * flag that is further ahead is of another epoch, or of who has given up
 * waiting, and whose message is not there any more. All threads call it. */
static __device__ __forceinline__ void
messages_await(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
               coterie_gpu_parcel_t parcel, uint32_t *counts)
{
    const uint32_t ranks = d.tables.rank_count;
    const uint32_t sequence = rank.sequence[coterie_gpu_number_of(parcel)];
    const uint32_t *flags = rank.flags + coterie_gpu_flag_of(parcel) * ranks;
    const uint64_t start = timer_ns();
    const uint64_t deadline = rank.counts->late != 0 ? 0 : d.deadline_ns;

    for (uint32_t from = threadIdx.x; from < ranks; from += blockDim.x) {
        const coterie_gpu_head_t *head =
            (const coterie_gpu_head_t *)coterie_gpu_inbound(&d, &rank, parcel,
                                                            from);
        bool there = !coterie_gpu_flags(&d, &rank, parcel, from);

        counts[from] = 0;
        if (!coterie_gpu_comes(&d, &rank, parcel, from))
            continue;
        while (!there) {
            there = flag_read(flags + from) - sequence <= AHEAD_MAX;
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

static __device__ __forceinline__ coterie_gpu_parcel_t
arrived_as(const coterie_gpu_dispatch_t &d)
{
    return d.late ? COTERIE_GPU_LATE : COTERIE_GPU_DISPATCH;
}

/* In shared memory, once all messages have come. */
static __device__ __forceinline__ arrived_t
arrived_count(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank)
{
    const uint32_t ranks = d.tables.rank_count;
    uint32_t *count = (uint32_t *)((arriving_t *)shared_memory() + 1);
    uint32_t *first = count + ranks, owned = 0;
    const coterie_gpu_parcel_t parcel = arrived_as(d);

    messages_await(d, rank, parcel, count);
    if (threadIdx.x == 0) {
        uint32_t left = d.arrivals;
        for (uint32_t from = 0; from < ranks; from++) {
            const coterie_gpu_head_t *head =
                (const coterie_gpu_head_t *)coterie_gpu_inbound(&d, &rank,
                                                                parcel, from);
            first[from] = owned;
            if (count[from] > 0 || from == rank.rank)
                owned += min(head->owned, d.max_rows);
            if (count[from] > left) {
                count[from] = left;
                rank.counts->overflows = 1; /* by all blocks alike */
            }
            left -= count[from];
        }
        first[ranks] = owned;
    }
    __syncthreads();
    return {count, first};
}

/* D is who serves any of the choices. */
static __device__ __forceinline__ void
parts_write(uint16_t *parts, uint32_t k, const coterie_gpu_choice_t *choices)
{
    uint32_t last = 0;

    for (uint32_t i = 0; i < k; i++) {
        uint32_t next = COTERIE_NONE;
        for (uint32_t j = 0; j < k; j++)
            if ((i == 0 || choices[j].serving > last) &&
                choices[j].serving < next)
                next = choices[j].serving;
        parts[i] = (uint16_t)next;
        last = next;
    }
}

/* Elements 8 i to 8 i + 7 of a row's weighted outputs: choices in order, so
 * that a sum has one order whatever else came. */
static __device__ __forceinline__ eight_t
sum_of(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
       uint32_t row, uint32_t i)
{
    const int32_t *place = rank.place + (size_t)row * d.k;
    const float *weights = rank.weights + (size_t)row * d.k;
    eight_t sum = {};

    for (uint32_t j = 0; j < d.k; j++) {
        if (place[j] == NO_PAIR)
            continue;
        const eight_t part = eight_load(
            rank.out + (size_t)place[j] * d.hidden, COTERIE_WIRE_F32, i);
        for (int e = 0; e < 8; e++)
            sum.v[e] += weights[j] * part.v[e];
    }
    return sum;
}

#endif
