/* The tile operations of AMX, so that the very source of its kernels runs on
 * processors without them: with the checks that the processor makes, and with
 * the order of additions that it documents. */
#include "config.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "tests/emulated/amx.h"

enum { REGISTERS = 8, BYTES = 64, LINES = 16 };

typedef struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_size[16];
    uint8_t rows[16];
} config_t;

static _Thread_local config_t now;
static _Thread_local uint8_t held[REGISTERS][LINES][BYTES];

static void tiles_config(const void *from)
{
    memcpy(&now, from, sizeof(now));
    assert(now.palette == 1);
    for (int i = 0; i < REGISTERS; i++)
        assert(now.row_size[i] <= BYTES && now.row_size[i] % 4 == 0 &&
               now.rows[i] <= LINES);
    memset(held, 0, sizeof(held));
}

static void tiles_release(void)
{
    memset(&now, 0, sizeof(now));
}

static void tile_zero(int to)
{
    assert(now.palette == 1);
    memset(held[to], 0, sizeof(held[to]));
}

static void tile_load(int to, const void *from, size_t stride)
{
    assert(now.palette == 1);
    memset(held[to], 0, sizeof(held[to]));
    for (size_t r = 0; r < now.rows[to]; r++)
        memcpy(held[to][r], (const char *)from + r * stride,
               now.row_size[to]);
}

static void tile_store(int from, void *to, size_t stride)
{
    assert(now.palette == 1);
    for (size_t r = 0; r < now.rows[from]; r++)
        memcpy((char *)to + r * stride, held[from][r], now.row_size[from]);
}

static void shapes_check(int to, int x, int weights)
{
    assert(now.palette == 1 && to != x && to != weights && x != weights);
    assert(now.rows[to] == now.rows[x]);
    assert(now.row_size[to] == now.row_size[weights]);
    assert(now.row_size[x] == 4 * now.rows[weights]);
}

static float bf16_at(const uint8_t *from)
{
    const uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 24;
    float value;

    memcpy(&value, &bits, sizeof(value));
    return (bits & 0x7f800000) == 0 ? 0 * value : value; /* denormals */
}

/* Even and odd elements apart, then together, then to what there is. */
static void tile_dot_bf16(int to, int x, int weights)
{
    shapes_check(to, x, weights);
    for (size_t m = 0; m < now.rows[to]; m++)
        for (size_t n = 0; n < now.row_size[to] / 4u; n++) {
            float even = 0, odd = 0, sum;
            for (size_t k = 0; k < now.rows[weights]; k++) {
                const uint8_t *a = &held[x][m][4 * k];
                const uint8_t *b = &held[weights][k][4 * n];
                even = __builtin_fmaf(bf16_at(a), bf16_at(b), even);
                odd = __builtin_fmaf(bf16_at(a + 2), bf16_at(b + 2), odd);
            }
            memcpy(&sum, &held[to][m][4 * n], sizeof(sum));
            sum += even + odd;
            memcpy(&held[to][m][4 * n], &sum, sizeof(sum));
        }
}

/* Signed x, unsigned weights. */
static void tile_dot_bytes(int to, int x, int weights)
{
    shapes_check(to, x, weights);
    for (size_t m = 0; m < now.rows[to]; m++)
        for (size_t n = 0; n < now.row_size[to] / 4u; n++) {
            int32_t sum;
            memcpy(&sum, &held[to][m][4 * n], sizeof(sum));
            for (size_t k = 0; k < 4u * now.rows[weights]; k++)
                sum += (int8_t)held[x][m][k] *
                       held[weights][k / 4][4 * n + k % 4];
            memcpy(&held[to][m][4 * n], &sum, sizeof(sum));
        }
}

#define AMX_TARGET
#define TILES_SET tiles_config
#define TILES_END tiles_release
#define TILE_ZERO tile_zero
#define TILE_LOAD tile_load
#define TILE_STORE tile_store
#define TILE_DOT_BF16 tile_dot_bf16
#define TILE_DOT_BYTES tile_dot_bytes
#define AMX_TABLE(words) emulated_amx_##words

#include "kernels/cpu/amx.c"
