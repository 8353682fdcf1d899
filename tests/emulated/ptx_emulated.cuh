#ifndef TESTS_EMULATED_PTX_CUH
#define TESTS_EMULATED_PTX_CUH
/* What kernels/cuda/ptx.cuh does, written from the PTX manual's tables of who
 * holds what: the reference that the hardware's instructions stand for. */
#include <cuda_runtime.h>
#include <time.h>

#include "kernels/cuda/numbers.cuh"

static inline uint32_t narrow_pair(float low, float high)
{
    return bf16_narrow(low) | (uint32_t)bf16_narrow(high) << 16;
}

static inline float half_of(uint32_t pair, unsigned i)
{
    return bf16_widen((uint16_t)(pair >> (16 * i)));
}

static inline void mma_bf16(float c[4], const uint32_t a[4],
                            const uint32_t b[2])
{
    struct operands {
        uint32_t a[4], b[2];
    } mine, all[32] = {};
    const unsigned lane = emulated_lane();

    memcpy(mine.a, a, sizeof(mine.a));
    memcpy(mine.b, b, sizeof(mine.b));
    emulated::warp_exchange(&mine, all, sizeof(mine));
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + i / 2 * 8, n = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const unsigned of_pair = k % 8 / 2;
            const operands &x = all[row % 8 * 4 + of_pair];
            const operands &y = all[n * 4 + of_pair];
            c[i] += half_of(x.a[row / 8 + k / 8 * 2], k % 2) *
                    half_of(y.b[k / 8], k % 2);
        }
    }
}

static inline void copy_async_16(void *shared, const void *global, int valid)
{
    emulated::copy_ask(shared, valid ? global : NULL);
}

static inline void copy_async_commit(void)
{
    emulated::copy_commit();
}

template <int pending> static inline void copy_async_wait(void)
{
    emulated::copy_wait(pending);
}

static inline uint4 load_stream(const void *global)
{
    uint4 value;
    memcpy(&value, global, sizeof(value));
    return value;
}

static inline uint64_t timer_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint32_t flag_read(const uint32_t *flag)
{
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static inline void flag_raise(uint32_t *flag, uint32_t value)
{
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

static inline void *shared_memory(void)
{
    return emulated::shared;
}

#endif
