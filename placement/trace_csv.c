#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "placement/trace_csv.h"
#include "placement/trace_object.h"

typedef struct choice {
    int32_t layer;
    int32_t expert;
    uint32_t line; /* for error lines; the file may hold empty ones */
} choice_t;

typedef struct choices {
    const char *path;
    choice_t *rows;
    size_t count;
} choices_t;

static coterie_status_t rows_parse(choices_t *choices, const char *text,
                                   size_t size);
static const char *row_parse(const char *text, choice_t *row);
static const char *number_parse(const char *text, int32_t *number_p);
static coterie_status_t shape_infer(const choices_t *choices,
                                    coterie_trace_view_t *shape);
static coterie_status_t rows_check(const choices_t *choices,
                                   const coterie_trace_view_t *shape);
static coterie_status_t trace_build(const choices_t *choices,
                                    const coterie_trace_view_t *shape,
                                    coterie_trace_t **trace_p);

coterie_status_t coterie_trace_read_csv(const char *path,
                                        uint32_t expert_count,
                                        coterie_trace_t **trace_p)
{
    coterie_trace_view_t shape = {.expert_count = expert_count,
                                  .sequence_count = 1};
    choices_t choices = {.path = path};
    coterie_status_t status;
    void *text = NULL;
    size_t size;

    status = coterie_file_read(path, PTRDIFF_MAX - 1, &text, &size);
    if (status == COTERIE_OK)
        status = rows_parse(&choices, text, size);
    if (status == COTERIE_OK)
        status = shape_infer(&choices, &shape);
    if (status == COTERIE_OK)
        status = rows_check(&choices, &shape);
    if (status == COTERIE_OK)
        status = trace_build(&choices, &shape, trace_p);
    free(choices.rows);
    free(text);
    return status;
}

static coterie_status_t rows_parse(choices_t *choices, const char *text,
                                   size_t size)
{
    const char *end = text + size, *at = text;
    uint32_t line = 0;

    /* A row takes four bytes at least, its line break included. */
    choices->rows = malloc((size / 4 + 1) * sizeof(*choices->rows));
    if (choices->rows == NULL)
        return coterie_fail_memory(size, choices->path);
    for (; at < end; at++) {
        choice_t row;
        line++;
        if (line == 1 && strncmp(at, "layer,expert", 12) == 0)
            at += 12;
        else if (*at != '\n' && *at != '\r') {
            at = row_parse(at, &row);
            row.line = line;
            if (at != NULL)
                choices->rows[choices->count++] = row;
        }
        if (at != NULL && *at == '\r')
            at++;
        if (at == NULL || (*at != '\n' && at != end))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: line %u is not `layer,expert`; a trace is "
                                "an .npz, an .npy or lines of these",
                                choices->path, line);
    }
    return COTERIE_OK;
}

/* Returns what follows the row, or NULL if it is none. */
static const char *row_parse(const char *text, choice_t *row)
{
    text = number_parse(text, &row->layer);
    if (text == NULL || row->layer < 0 || *text != ',')
        return NULL;
    return number_parse(text + 1, &row->expert);
}

/* strtol alone would take blanks and line breaks too. */
static const char *number_parse(const char *text, int32_t *number_p)
{
    char *end;
    long number;

    if (*text != '-' && (*text < '0' || *text > '9'))
        return NULL;
    number = strtol(text, &end, 10);
    if (end == text || number < -1 || number > INT16_MAX)
        return NULL;
    *number_p = (int32_t)number;
    return end;
}

/* The first token says what every token looks like: k lines for its first
 * layer, and layers that ascend until the next token begins. */
static coterie_status_t shape_infer(const choices_t *choices,
                                    coterie_trace_view_t *shape)
{
    const choice_t *rows = choices->rows;
    size_t count = choices->count, length = 1, k = 1;

    if (count == 0)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: an empty trace",
                            choices->path);
    /* A batch written layer by layer would show as a longer run, and is
     * refused below, since whose line is whose cannot be known. */
    while (k < count && rows[k].layer == rows[0].layer)
        k++;
    while (length < count && rows[length].layer >= rows[length - 1].layer)
        length++;
    if (k == count)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: only layer %d: with one layer nothing tells "
                            "where a token ends",
                            choices->path, rows[0].layer);
    if (k > COTERIE_K_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu lines of layer %d in a row: at most %d "
                            "experts; lines must come token by token",
                            choices->path, k, rows[0].layer, COTERIE_K_MAX);
    if (length % k != 0 || count % length != 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu lines are not whole tokens: the first has "
                            "%zu lines, %zu for its first layer",
                            choices->path, count, length, k);
    shape->k = (uint32_t)k;
    shape->layer_count = (uint32_t)(length / k);
    shape->token_count = count / length;
    return COTERIE_OK;
}

static coterie_status_t rows_check(const choices_t *choices,
                                   const coterie_trace_view_t *shape)
{
    const choice_t *rows = choices->rows;
    size_t length = (size_t)shape->layer_count * shape->k;

    for (size_t i = 0; i < choices->count; i++) {
        size_t place = i % length / shape->k * shape->k;
        int32_t due = rows[place].layer;
        int repeats = i < length && i == place && place > 0 &&
                      due == rows[place - 1].layer;
        if (rows[i].layer != due || repeats)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: line %u: layer %d breaks the order of the "
                                "first token: %u lines a layer, layers "
                                "ascending",
                                choices->path, rows[i].line, rows[i].layer,
                                shape->k);
    }
    return COTERIE_OK;
}

static coterie_status_t trace_build(const choices_t *choices,
                                    const coterie_trace_view_t *shape,
                                    coterie_trace_t **trace_p)
{
    coterie_trace_t *trace;
    coterie_status_t status;

    status = coterie_trace_allocate(choices->path, COTERIE_ERR_FORMAT, shape,
                                    0, &trace);
    if (status != COTERIE_OK)
        return status;
    for (size_t i = 0; i < choices->count; i++)
        trace->experts[i] = (int16_t)choices->rows[i].expert;
    trace->seq_start[0] = 0;
    trace->seq_start[1] = shape->token_count;
    status = coterie_trace_check(choices->path, COTERIE_ERR_FORMAT,
                                 &trace->view);
    if (status == COTERIE_OK)
        *trace_p = trace;
    else
        coterie_trace_destroy(trace);
    return status;
}
