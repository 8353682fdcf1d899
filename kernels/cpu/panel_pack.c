#include "config.h"

#include <string.h>

#include "kernels/cpu/panel.h"

enum { LINE = 64 };

static size_t spans_of(uint32_t in);
static void row_pack(const coterie_panel_method_t *method, uint32_t in,
                     const float *x, const float *next, char *to);

size_t coterie_panel_words_size(const coterie_panel_method_t *method,
                                uint32_t in)
{
    return spans_of(in) * COTERIE_SPAN /
           (size_t)coterie_panel_word_elements(method->words) *
           sizeof(uint32_t);
}

/* An odd number of cache lines: rows of a tile do not contend for one set. */
size_t coterie_panel_row_size(const coterie_panel_method_t *method,
                              uint32_t in)
{
    const size_t size =
        coterie_panel_words_size(method, in) +
        spans_of(in) * COTERIE_SPAN_WORDS * sizeof(uint32_t);

    return ((size + LINE - 1) / LINE | 1) * LINE;
}

void coterie_panel_pack(const coterie_panel_method_t *method, uint32_t rows,
                        uint32_t in, const float *const *x, char *to)
{
    const size_t row_size = coterie_panel_row_size(method, in);

    for (uint32_t row = 0; row < rows; row++)
        row_pack(method, in, x[row], x[row + 1 < rows ? row + 1 : row],
                 to + row * row_size);
}

static size_t spans_of(uint32_t in)
{
    return ((size_t)in + COTERIE_SPAN - 1) / COTERIE_SPAN;
}

/* Rows come from all over a tensor: the next one is asked for meanwhile. */
static void row_pack(const coterie_panel_method_t *method, uint32_t in,
                     const float *x, const float *next, char *to)
{
    const size_t size = COTERIE_SPAN /
                        (size_t)coterie_panel_word_elements(method->words) *
                        sizeof(uint32_t);
    float *span = (float *)(to + coterie_panel_words_size(method, in));

    for (uint32_t k = 0; k < in; k += COTERIE_SPAN) {
        float last[COTERIE_SPAN] = {0};
        const float *from = x + k;

        for (uint32_t i = 0; i < COTERIE_SPAN; i += LINE / sizeof(*x))
            __builtin_prefetch(next + k + i, 0, 3);
        if (in - k < COTERIE_SPAN)
            from = memcpy(last, from, (in - k) * sizeof(*from));
        method->span(method, from, to, span);
        to += size;
        span += COTERIE_SPAN_WORDS;
    }
}
