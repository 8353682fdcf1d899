#ifndef TESTS_EMULATED_CUDA_RUNTIME_H
#define TESTS_EMULATED_CUDA_RUNTIME_H
/* Stands in for CUDA's header, so that the very source of a kernel runs on the
 * CPU: every thread of a block is a fiber, blocks run one after the other, and
 * at each barrier the order of the threads is drawn anew, so that one which is
 * missing shows. Shared memory is poisoned before every block. What only
 * hardware has, tensor cores and the like, is in kernels/cuda/ptx.cuh here. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
        : x(x_), y(y_), z(z_)
    {
    }
};

struct uint2 {
    unsigned x, y;
};

struct alignas(8) float2 {
    float x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

struct alignas(16) float4 {
    float x, y, z, w;
};

typedef struct emulated_stream *cudaStream_t;

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1
} cudaError_t;

struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulated {

extern unsigned linear; /* of the thread that runs, in its block */
extern void *shared;    /* the block's dynamic shared memory */

/* Runs body once for every thread of the grid. */
void run(const cudaLaunchConfig_t &config, void (*body)(void *), void *arg);
void block_barrier(void);
/* Each lane of the warp gives `size` bytes and gets all 32 lanes', of those
 * that have not returned; others' are left zero. */
void warp_exchange(const void *mine, void *all, size_t size);

unsigned draw(void);

/* A copy of 16 bytes, or zeros: made at once or when it is waited for, as is
 * drawn. */
void copy_ask(void *to, const void *from);
void copy_commit(void);
void copy_wait(unsigned pending);

/* Where shared memory's addresses count from. Products and bulk copies have a
 * view of their own of it, to which a thread's copies come by its fence. */
unsigned shared_address(const void *at);
const void *shared_seen_by_products(unsigned address);
void proxy_fence(void);

void barrier_init(uint64_t *barrier, unsigned count);
void barrier_arrive(uint64_t *barrier, unsigned bytes);
void barrier_wait(uint64_t *barrier, unsigned parity);
/* Made at once or some rounds later, as is drawn. */
void bulk_copy(void *to, const void *from, unsigned size, uint64_t *barrier);

/* A lane's part of a product of four warps: made at once, or when the warp
 * waits for it, as is drawn; operands are read and sums are written then. */
struct product {
    void (*make)(const product &mine, const uint32_t *const lanes_a[32]);
    float *d;
    const uint32_t *a; /* [4] */
    uint64_t b;
};
void product_ask(const product &p);
void product_fence(void);
void product_commit(void);
void product_wait(unsigned pending);

template <typename T> T warp_get(T mine, unsigned lane)
{
    T all[32] = {};
    warp_exchange(&mine, all, sizeof(T));
    return all[lane % 32];
}

} // namespace emulated

inline unsigned emulated_lane(void)
{
    return emulated::linear % 32;
}

inline void __syncthreads(void)
{
    emulated::block_barrier();
}

inline void __syncwarp(unsigned = ~0u)
{
    (void)emulated::warp_get(0, 0);
}

template <typename T>
T __shfl_sync(unsigned, T value, int lane, int = 32)
{
    return emulated::warp_get(value, (unsigned)lane);
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32)
{
    return emulated::warp_get(value, emulated_lane() ^ (unsigned)mask);
}

template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned by, int = 32)
{
    const unsigned lane = emulated_lane();
    return emulated::warp_get(value, lane < by ? lane : lane - by);
}

inline unsigned __ballot_sync(unsigned, int vote)
{
    int all[32] = {};
    unsigned votes = 0;
    emulated::warp_exchange(&vote, all, sizeof(vote));
    for (unsigned lane = 0; lane < 32; lane++)
        votes |= (unsigned)(all[lane] != 0) << lane;
    return votes;
}

inline unsigned __match_any_sync(unsigned, int value)
{
    struct {
        int value, there;
    } mine = {value, 1}, all[32] = {};
    unsigned same = 0;
    emulated::warp_exchange(&mine, all, sizeof(mine));
    for (unsigned lane = 0; lane < 32; lane++)
        same |= (unsigned)(all[lane].there && all[lane].value == value)
                << lane;
    return same;
}

inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}

inline int __ffs(int bits)
{
    return __builtin_ffs(bits);
}

template <typename T> T __ldg(const T *at)
{
    return *at;
}

template <typename T> T atomicAdd(T *at, T value)
{
    const T before = *at;
    *at += value;
    return before;
}

template <typename T> T atomicMax(T *at, T value)
{
    const T before = *at;
    *at = std::max(before, value);
    return before;
}

template <typename T> T atomicCAS(T *at, T expected, T value)
{
    const T before = *at;
    if (before == expected)
        *at = value;
    return before;
}

/* Blocks run one after the other. */
inline void __threadfence_system(void)
{
}

inline unsigned __float_as_uint(float value)
{
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float __uint_as_float(unsigned bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline float rsqrtf(float value)
{
    return 1 / sqrtf(value);
}

inline float __expf(float x)
{
    return expf(x);
}

inline float __fdividef(float x, float y)
{
    return x / y;
}

using std::max;
using std::min;

inline cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

template <typename F>
cudaError_t cudaFuncSetAttribute(F, int, int)
{
    return cudaSuccess;
}

enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

template <typename T>
cudaError_t cudaMemcpyFromSymbol(void *to, const T &symbol, size_t size)
{
    memcpy(to, &symbol, size);
    return cudaSuccess;
}

template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config,
                               void (*kernel)(Expected...), Actual... actual)
{
    struct call {
        void (*kernel)(Expected...);
        std::tuple<Expected...> arguments;
    } call = {kernel, std::tuple<Expected...>(actual...)};

    emulated::run(
        *config,
        [](void *arg) {
            struct call *c = (struct call *)arg;
            std::apply(c->kernel, c->arguments);
        },
        &call);
    return cudaSuccess;
}

#endif
