#ifndef COTERIE_KERNELS_CUDA_PTX_CUH
#define COTERIE_KERNELS_CUDA_PTX_CUH
/* What only the hardware has. Any other compiler than CUDA's gets the same
 * calls from tests/emulated. */
#include <cuda_runtime.h>
#include <stdint.h>

#ifndef __CUDACC__
#include <ptx_emulated.cuh>
#else

/* Two bf16, rounded to nearest, ties to even. */
static __device__ __forceinline__ uint32_t narrow_pair(float low, float high)
{
    uint32_t pair;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* c[16, 8] += a[16, 16] b[16, 8], whole warps; who holds what is in the PTX
 * manual under mma.m16n8k16. */
static __device__ __forceinline__ void mma_bf16(float c[4],
                                                const uint32_t a[4],
                                                const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                   "r"(b[1]));
}

/* 16 bytes, or zeros unless valid, into shared memory; both ends aligned. They
 * are there once copy_async_wait has returned and the block has met. */
static __device__ __forceinline__ void copy_async_16(void *shared,
                                                     const void *global,
                                                     int valid)
{
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until no more than `pending` of the latest commits are under way. */
template <int pending>
static __device__ __forceinline__ void copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Of what is read once: leaves the nearest cache to others. */
static __device__ __forceinline__ uint4 load_stream(const void *global)
{
    uint4 value;

    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(global));
    return value;
}

/* Nanoseconds of a clock that all kernels share. */
static __device__ __forceinline__ uint64_t timer_ns(void)
{
    uint64_t ns;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

/* A flag in memory that other devices write: what was written before it was
 * raised is seen by who has seen it. */
static __device__ __forceinline__ uint32_t flag_read(const uint32_t *flag)
{
    uint32_t value;

    asm volatile("ld.acquire.sys.global.u32 %0, [%1];"
                 : "=r"(value)
                 : "l"(flag)
                 : "memory");
    return value;
}

static __device__ __forceinline__ void flag_raise(uint32_t *flag,
                                                  uint32_t value)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value)
                 : "memory");
}

/* The block's dynamic shared memory, aligned to 16 bytes. */
static __device__ __forceinline__ void *shared_memory(void)
{
    extern __shared__ uint4 memory[];
    return memory;
}

#endif
#endif
