#ifndef TESTS_EMULATED_PTX_HOPPER_CUH
#define TESTS_EMULATED_PTX_HOPPER_CUH
/* What kernels/cuda/ptx_hopper.cuh does, from the same manual. */
#include <assert.h>

#include <ptx_emulated.cuh>

enum { HOPPER = 1 };

static inline uint32_t shared_address(const void *shared)
{
    return emulated::shared_address(shared);
}

static inline void barrier_init(uint64_t *barrier, uint32_t count)
{
    emulated::barrier_init(barrier, count);
}

static inline void barrier_arrive(uint64_t *barrier)
{
    emulated::barrier_arrive(barrier, 0);
}

static inline void barrier_expect(uint64_t *barrier, uint32_t size)
{
    emulated::barrier_arrive(barrier, size);
}

static inline void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    emulated::barrier_wait(barrier, parity);
}

static inline void proxy_fence(void)
{
    emulated::proxy_fence();
}

static inline void bulk_copy(void *shared, const void *global, uint32_t size,
                             uint64_t *barrier)
{
    emulated::bulk_copy(shared, global, size, barrier);
}

static inline void bulk_prefetch(const void *global, uint32_t size)
{
    assert(((uintptr_t)global | size) % 16 == 0);
}

template <int count> static inline void registers_raise(void)
{
}

template <int count> static inline void registers_drop(void)
{
}

static inline void wgmma_fence(void)
{
    emulated::product_fence();
}

static inline void wgmma_commit(void)
{
    emulated::product_commit();
}

template <int pending> static inline void wgmma_wait(void)
{
    emulated::product_wait(pending);
}

/* b[from .. from + 7, n] of a matrix with its inner dimension contiguous, as
 * its descriptor says: bits 0-13 its address, 32-45 from 8 of its rows to the
 * next, both in units of 16 bytes; 49-51 where the pattern begins, 62-63 which
 * it is: 1 has 128 bytes of a row side by side and exchanges pieces of 16 bytes
 * by what the address has three bits further up. */
static inline const uint16_t *eight_of(uint64_t b, unsigned from, unsigned n)
{
    const unsigned start = (b & 0x3fff) * 16, next = (b >> 32 & 0x3fff) * 16;
    unsigned at = start + n / 8 * next + n % 8 * 128 + from * 2;

    assert(b >> 62 == 1 && (b >> 46 & 0xffff) == 0 && (b >> 14 & 3) == 0);
    assert((start - start % 128) % 1024 == 0);
    at ^= at >> 3 & 0x70;
    return (const uint16_t *)emulated::shared_seen_by_products(at);
}

/* Warp w of the four has rows 16 w .. 16 w + 15 of a and d, as mma_bf16's. */
template <int ROWS>
static inline void wgmma_make(const emulated::product &mine,
                              const uint32_t *const lanes_a[32])
{
    const unsigned lane = emulated_lane();
    float a[2][16];

    for (unsigned row = 0; row < 2; row++)
        for (unsigned k = 0; k < 16; k++)
            a[row][k] = half_of(
                lanes_a[lane / 4 * 4 + k % 8 / 2][k / 8 * 2 + row], k % 2);
    for (unsigned i = 0; i < ROWS / 4; i++) {
        const unsigned n = i / 2 * 8 + lane % 4 * 2 + i % 2;
        float *d = &mine.d[i / 2 * 4 + i % 2];

        for (unsigned k = 0; k < 16; k++) {
            const float b = bf16_widen(eight_of(mine.b, k / 8 * 8, n)[k % 8]);

            d[0] += a[0][k] * b;
            d[2] += a[1][k] * b;
        }
    }
}

template <int ROWS>
static inline void wgmma(float (&d)[ROWS / 2], const uint32_t (&a)[4],
                         uint64_t b)
{
    emulated::product_ask({wgmma_make<ROWS>, d, a, b});
}

static inline uint2 load_stream_8(const void *global, bool valid)
{
    uint2 value = {0, 0};

    if (valid)
        memcpy(&value, global, sizeof(value));
    return value;
}

#endif
