#ifndef COTERIE_KERNELS_CUDA_PTX_HOPPER_CUH
#define COTERIE_KERNELS_CUDA_PTX_HOPPER_CUH
/* What sm_90a has and no other architecture: products by four warps at a time
 * that run beside them, and copies that a barrier in shared memory counts. */
#include "kernels/cuda/ptx.cuh"

#ifndef __CUDACC__
#include <ptx_hopper_emulated.cuh>
#else

/* Whether this pass of the compiler is for an architecture that has it. */
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
enum { HOPPER = 1 };
#else
enum { HOPPER = 0 };
#endif

static __device__ __forceinline__ uint32_t shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* A barrier's phase ends once `count` threads have arrived and all bytes that
 * were announced are there. Phases have parity 0, 1, 0, ... */
static __device__ __forceinline__ void barrier_init(uint64_t *barrier,
                                                    uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(count)
                 : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(
                     shared_address(barrier))
                 : "memory");
}

/* Arrives and announces bytes that bulk_copy will bring. */
static __device__ __forceinline__ void barrier_expect(uint64_t *barrier,
                                                      uint32_t size)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(size)
                 : "memory");
}

/* Until the phase of this parity has ended; at once if the one before the
 * first is meant. */
static __device__ __forceinline__ void barrier_wait(uint64_t *barrier,
                                                    uint32_t parity)
{
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@done bra gone;\n\t"
                 "bra again;\n\t"
                 "gone:\n\t"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* What this thread has seen in shared memory, or written there, also for
 * products and bulk copies that come after. */
static __device__ __forceinline__ void proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* From global memory, counted by the barrier; all aligned to 16 bytes. */
static __device__ __forceinline__ void bulk_copy(void *shared,
                                                 const void *global,
                                                 uint32_t size,
                                                 uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::"
                 "complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(size), "r"(shared_address(barrier))
                 : "memory");
}

/* On the way to the second-level cache: whole 16 bytes. */
static __device__ __forceinline__ void bulk_prefetch(const void *global,
                                                     uint32_t size)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global),
                 "r"(size));
}

/* Of a warpgroup: how many registers each of its threads may use from now. */
template <int count>
static __device__ __forceinline__ void registers_raise(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count>
static __device__ __forceinline__ void registers_drop(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

/* Before products: what they take from registers is there. */
static __device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until no more than `pending` of the latest commits are under way; what those
 * took may be written, and what they gave may be read. */
template <int pending> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending)
                 : "memory");
}

#define SUMS_8(d, i)                                                          \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]),               \
        "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_16(d, i) SUMS_8(d, i), SUMS_8(d, i + 8)
#define SUMS_32(d, i) SUMS_16(d, i), SUMS_16(d, i + 16)
#define NAMES_16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)              \
    "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h     \
    ", %" #i ", %" #j ", %" #k ", %" #l ", %" #m ", %" #n ", %" #o ", %" #p
#define NAMES_0 NAMES_16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define NAMES_1                                                               \
    NAMES_16(16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31)
#define NAMES_2                                                               \
    NAMES_16(32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47)
#define NAMES_3                                                               \
    NAMES_16(48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63)
/* The sums' names, and the numbers of the five operands after them. */
#define WGMMA(rows, names, o0, o1, o2, o3, o4, ...)                           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #rows                    \
                 "k16.f32.bf16.bf16 {" names "}, {%" #o0 ", %" #o1 ", %" #o2  \
                 ", %" #o3 "}, %" #o4 ", 1, 1, 1, 0;"                         \
                 : __VA_ARGS__                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

/* d[64, ROWS] += a[64, 16] b[16, ROWS]: a warpgroup, a from registers, b from
 * shared memory as wgmma_rows says; who holds what is in the PTX manual under
 * wgmma.mma_async.m64nNk16. */
template <int ROWS>
static __device__ __forceinline__ void wgmma(float (&d)[ROWS / 2],
                                             const uint32_t (&a)[4],
                                             uint64_t b)
{
    static_assert(ROWS % 32 == 0 && ROWS <= 128, "no such instruction here");
    if constexpr (ROWS == 32)
        WGMMA(32, NAMES_0, 16, 17, 18, 19, 20, SUMS_16(d, 0));
    else if constexpr (ROWS == 64)
        WGMMA(64, NAMES_0 ", " NAMES_1, 32, 33, 34, 35, 36, SUMS_32(d, 0));
    else if constexpr (ROWS == 96)
        WGMMA(96, NAMES_0 ", " NAMES_1 ", " NAMES_2, 48, 49, 50, 51, 52,
              SUMS_32(d, 0), SUMS_16(d, 32));
    else
        WGMMA(128, NAMES_0 ", " NAMES_1 ", " NAMES_2 ", " NAMES_3, 64, 65, 66,
              67, 68, SUMS_32(d, 0), SUMS_32(d, 32));
}

/* Of what is read once, 8 bytes, or zeros unless valid. */
static __device__ __forceinline__ uint2 load_stream_8(const void *global,
                                                      bool valid)
{
    uint2 value;

    asm volatile("{\n\t"
                 ".reg .pred valid;\n\t"
                 "setp.ne.b32 valid, %3, 0;\n\t"
                 "mov.b32 %0, 0;\n\t"
                 "mov.b32 %1, 0;\n\t"
                 "@valid ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, "
                 "[%2];\n\t"
                 "}"
                 : "=&r"(value.x), "=&r"(value.y)
                 : "l"(global), "r"((int)valid));
    return value;
}

#endif

/* The 16 inner elements from `at` on of rows in shared memory: 128 bytes of
 * each row side by side, the row's pieces of 16 bytes exchanged by its number
 * modulo 8 ("128-byte swizzle"); every 8 rows begin at a multiple of 1024. */
static __device__ __forceinline__ uint64_t wgmma_rows(const void *at)
{
    const uint64_t next_rows = 1024 >> 4, swizzle_128 = 1;

    return (shared_address(at) & 0x3ffff) >> 4 | next_rows << 32 |
           swizzle_128 << 62;
}

#endif
