#include "config.h"

#include <string.h>

#include "kernels/cpu/panel.h"

enum { GROUP = COTERIE_PANEL_GROUP };

/* A row's part of a tile: where its words and spans go, and how far apart. */
typedef struct target {
    const coterie_panel_method_t *method;
    char *to, *spans;
    size_t stride; /* bytes */
} target_t;

static size_t groups_of(uint32_t in);
static bool has_spans(const coterie_panel_method_t *method);
static void row_pack(const target_t *target, const float *x, uint32_t in);

size_t coterie_panel_row_size(const coterie_panel_method_t *method,
                              uint32_t in)
{
    const size_t words = GROUP / coterie_panel_word_elements(method->words);
    return groups_of(in) * (words + (has_spans(method) ? 2 : 0)) *
           sizeof(uint32_t);
}

void coterie_panel_pack_tile(const coterie_panel_method_t *method,
                             uint32_t rows, uint32_t in,
                             const float *const *x, char *to)
{
    const size_t words = GROUP / coterie_panel_word_elements(method->words);
    target_t target = {.method = method, .stride = rows * sizeof(uint32_t)};

    for (uint32_t row = 0; row < rows; row++) {
        target.to = to + row * sizeof(uint32_t);
        target.spans = target.to + groups_of(in) * words * target.stride;
        row_pack(&target, x[row], in);
    }
}

static size_t groups_of(uint32_t in)
{
    return ((size_t)in + GROUP - 1) / GROUP;
}

static bool has_spans(const coterie_panel_method_t *method)
{
    return method->words == COTERIE_WORDS_INT8 ||
           method->dtype == COTERIE_DTYPE_INT4_ZERO;
}

static void row_pack(const target_t *target, const float *x, uint32_t in)
{
    const coterie_panel_method_t *method = target->method;
    const int count = GROUP / coterie_panel_word_elements(method->words);
    const bool spans = has_spans(method);
    char *to = target->to, *span_to = target->spans;

    for (uint32_t k = 0; k < in; k += GROUP) {
        float last[GROUP] = {0}, span[2];
        const float *group = x + k;
        uint32_t words[GROUP];
        if (in - k < GROUP)
            group = memcpy(last, group, (in - k) * sizeof(*group));
        method->group(method, group, words, span);
        for (int i = 0; i < count; i++, to += target->stride)
            memcpy(to, &words[i], sizeof(words[i]));
        for (int i = 0; spans && i < 2; i++, span_to += target->stride)
            memcpy(span_to, &span[i], sizeof(span[i]));
    }
}
