#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/npz.h"
#include "placement/trace_csv.h"
#include "placement/trace_object.h"

typedef unsigned long long ull_t;

enum { LINE_SIZE = 512, PROBE_SIZE = 6 };
enum { BYTE_WEIGHT = 255 }; /* what 1 is in weights of one byte */

/* The arrays of a trace as its file holds them; a NULL buffer: not there. */
typedef struct parts {
    coterie_npy_t experts, weights, predicted, seq_start, step, phase, token;
} parts_t;

typedef struct source {
    const char *path;
    uint32_t expert_count; /* 0: not known */
    parts_t parts;
} source_t;

static coterie_status_t probe(const char *path, char start[PROBE_SIZE],
                              size_t *size_p);
static coterie_status_t npz_load(source_t *source);
static coterie_status_t npz_part(coterie_npz_t *npz, const char *key,
                                 coterie_npy_t *part);
static coterie_status_t npz_expert_count(coterie_npz_t *npz, source_t *source);
static coterie_status_t npy_load(source_t *source);
static coterie_status_t side_file(const char *path, const char *key,
                                  coterie_npy_t *part);
static coterie_status_t parts_build(source_t *source,
                                    coterie_trace_t **trace_p);
static coterie_status_t shape_of(const source_t *source,
                                 coterie_trace_view_t *shape);
static coterie_status_t parts_check(const source_t *source,
                                    const coterie_trace_view_t *shape);
static coterie_status_t lengths_check(const source_t *source, const char *key,
                                      const coterie_npy_t *part,
                                      uint64_t tokens);
static coterie_status_t parts_copy(const source_t *source,
                                   coterie_trace_t *trace);
static coterie_status_t ids_copy(const source_t *source,
                                 const coterie_npy_t *part, uint32_t k,
                                 int16_t *ids);
static void weights_copy(const coterie_npy_t *part, float *weights);
static void starts_copy(const coterie_npy_t *part, coterie_trace_t *trace);
static coterie_status_t tokens_copy(const source_t *source,
                                    coterie_trace_t *trace);
static void parts_release(parts_t *parts);

coterie_status_t coterie_trace_read(const char *path, uint32_t expert_count,
                                    coterie_trace_t **trace_p)
{
    source_t source = {.path = path, .expert_count = expert_count};
    char start[PROBE_SIZE];
    size_t size = 0;
    coterie_status_t status;

    if (path == NULL || trace_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_read: a path and a place for the "
                            "trace are required");
    if (expert_count > COTERIE_TRACE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%u experts a layer; at most %d", expert_count,
                            COTERIE_TRACE_EXPERTS_MAX);
    status = probe(path, start, &size);
    if (status != COTERIE_OK)
        return status;
    /* Contents, not names, tell the formats apart. */
    if (size >= 2 && memcmp(start, "PK", 2) == 0)
        status = npz_load(&source);
    else if (size == PROBE_SIZE && memcmp(start, "\x93NUMPY", 6) == 0)
        status = npy_load(&source);
    else
        return coterie_trace_read_csv(path, expert_count, trace_p);
    if (status == COTERIE_OK)
        status = parts_build(&source, trace_p);
    parts_release(&source.parts);
    return status;
}

static coterie_status_t probe(const char *path, char start[PROBE_SIZE],
                              size_t *size_p)
{
    FILE *stream = fopen(path, "rb");

    if (stream == NULL)
        return coterie_fail(
            errno == ENOENT ? COTERIE_ERR_NOT_FOUND : COTERIE_ERR_IO, "%s: %s",
            path, strerror(errno));
    *size_p = fread(start, 1, PROBE_SIZE, stream);
    fclose(stream);
    return COTERIE_OK;
}

/* Each array that is there; other keys, such as another tool's notes, are
 * nothing to us. */
static coterie_status_t npz_load(source_t *source)
{
    parts_t *parts = &source->parts;
    coterie_npz_t *npz = NULL;
    coterie_status_t status = coterie_npz_open(source->path, &npz);

    if (status == COTERIE_OK && !coterie_npz_has(npz, "experts") &&
        !coterie_npz_has(npz, "routed_experts"))
        status = coterie_fail(COTERIE_ERR_FORMAT,
                              "%s: not a trace: it holds neither 'experts' nor "
                              "'routed_experts'",
                              source->path);
    if (status == COTERIE_OK)
        status = npz_part(npz, "experts", &parts->experts);
    if (status == COTERIE_OK && parts->experts.buffer == NULL)
        status = npz_part(npz, "routed_experts", &parts->experts);
    if (status == COTERIE_OK)
        status = npz_part(npz, "weights", &parts->weights);
    if (status == COTERIE_OK)
        status = npz_part(npz, "predicted", &parts->predicted);
    if (status == COTERIE_OK)
        status = npz_part(npz, "seq_start", &parts->seq_start);
    if (status == COTERIE_OK)
        status = npz_part(npz, "step", &parts->step);
    if (status == COTERIE_OK)
        status = npz_part(npz, "phase", &parts->phase);
    if (status == COTERIE_OK)
        status = npz_part(npz, "token", &parts->token);
    if (status == COTERIE_OK)
        status = npz_expert_count(npz, source);
    coterie_npz_close(npz);
    return status;
}

/* Leaves the part as it is if the archive does not hold it. */
static coterie_status_t npz_part(coterie_npz_t *npz, const char *key,
                                 coterie_npy_t *part)
{
    if (!coterie_npz_has(npz, key))
        return COTERIE_OK;
    return coterie_npz_read(npz, key, part);
}

static coterie_status_t npz_expert_count(coterie_npz_t *npz, source_t *source)
{
    coterie_npy_t scalar = {0};
    coterie_status_t status = npz_part(npz, "expert_count", &scalar);
    int64_t count = -1;

    if (status != COTERIE_OK || scalar.buffer == NULL)
        return status;
    if (scalar.count == 1 && scalar.kind != 'f')
        count = coterie_npy_integer(&scalar, 0);
    coterie_npy_release(&scalar);
    if (count < 1 || count > COTERIE_TRACE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: expert_count is not one integer from 1 to %d",
                            source->path, COTERIE_TRACE_EXPERTS_MAX);
    if (source->expert_count != 0 && count != source->expert_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: recorded for %lld experts a layer, not %u",
                            source->path, (long long)count,
                            source->expert_count);
    source->expert_count = (uint32_t)count;
    return COTERIE_OK;
}

static coterie_status_t npy_load(source_t *source)
{
    const char *slash = strrchr(source->path, '/');
    const char *base = slash != NULL ? slash + 1 : source->path;
    parts_t *parts = &source->parts;
    coterie_status_t status = coterie_npy_read(source->path, &parts->experts);

    /* Neighbours of other names may belong to anything. */
    if (status != COTERIE_OK || strcmp(base, "experts.npy") != 0)
        return status;
    status = side_file(source->path, "seq_start", &parts->seq_start);
    if (status == COTERIE_OK)
        status = side_file(source->path, "weights", &parts->weights);
    return status;
}

/* Reads `key`.npy beside experts.npy, if it is there. */
static coterie_status_t side_file(const char *path, const char *key,
                                  coterie_npy_t *part)
{
    size_t folder = strlen(path) - strlen("experts.npy");
    size_t size = folder + strlen(key) + sizeof(".npy");
    char *side = malloc(size);
    coterie_status_t status;

    if (side == NULL)
        return coterie_fail_memory(size, "a file name");
    snprintf(side, size, "%.*s%s.npy", (int)folder, path, key);
    status = coterie_npy_read(side, part);
    free(side);
    return status == COTERIE_ERR_NOT_FOUND ? COTERIE_OK : status;
}

static coterie_status_t parts_build(source_t *source,
                                    coterie_trace_t **trace_p)
{
    const parts_t *parts = &source->parts;
    coterie_trace_view_t shape = {.expert_count = source->expert_count};
    coterie_trace_t *trace = NULL;
    unsigned arrays = 0;
    coterie_status_t status = shape_of(source, &shape);

    if (status == COTERIE_OK)
        status = parts_check(source, &shape);
    if (status != COTERIE_OK)
        return status;
    arrays |= parts->weights.buffer != NULL ? COTERIE_TRACE_WEIGHTS : 0u;
    arrays |= parts->step.buffer != NULL ? COTERIE_TRACE_STEP : 0u;
    arrays |= parts->phase.buffer != NULL ? COTERIE_TRACE_PHASE : 0u;
    arrays |= parts->token.buffer != NULL ? COTERIE_TRACE_TOKEN : 0u;
    status = coterie_trace_allocate(source->path, COTERIE_ERR_FORMAT, &shape,
                                    arrays, &trace);
    if (status == COTERIE_OK)
        status = parts_copy(source, trace);
    if (status == COTERIE_OK)
        status = coterie_trace_check(source->path, COTERIE_ERR_FORMAT,
                                     &trace->view);
    if (status == COTERIE_OK)
        *trace_p = trace;
    else
        coterie_trace_destroy(trace);
    return status;
}

/* Reads sizes only; whether they make a trace is coterie_trace_allocate's to
 * say, before anything is copied. */
static coterie_status_t shape_of(const source_t *source,
                                 coterie_trace_view_t *shape)
{
    const coterie_npy_t *experts = &source->parts.experts;
    const coterie_npy_t *predicted = &source->parts.predicted;
    const coterie_npy_t *seq_start = &source->parts.seq_start;

    if (experts->ndim != 2 && experts->ndim != 3)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: experts have %u dimensions; a trace has 2 "
                            "[tokens, layers] or 3 [tokens, layers, k]",
                            source->path, experts->ndim);
    if (experts->kind == 'f')
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: experts are floats; ids must be integers",
                            source->path);
    shape->token_count = experts->shape[0];
    shape->k = experts->ndim == 3 ? (uint32_t)experts->shape[2] : 1;
    shape->layer_count = (uint32_t)experts->shape[1];
    if (shape->layer_count != experts->shape[1] ||
        (experts->ndim == 3 && shape->k != experts->shape[2]))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %llu layers are more than a trace can hold",
                            source->path, (ull_t)experts->shape[1]);
    if (predicted->buffer != NULL && predicted->ndim == 3)
        shape->predicted_k = (uint32_t)predicted->shape[2];
    shape->sequence_count = 1;
    if (seq_start->buffer != NULL && seq_start->count > 0)
        shape->sequence_count = seq_start->count - 1;
    return COTERIE_OK;
}

/* What beside the experts is there must fit them. */
static coterie_status_t parts_check(const source_t *source,
                                    const coterie_trace_view_t *shape)
{
    const parts_t *parts = &source->parts;
    coterie_status_t status;

    if (parts->weights.buffer != NULL &&
        (parts->weights.ndim != parts->experts.ndim ||
         memcmp(parts->weights.shape, parts->experts.shape,
                sizeof(parts->experts.shape)) != 0))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: weights are of another shape than experts",
                            source->path);
    if (parts->weights.buffer != NULL && parts->weights.kind != 'f' &&
        (parts->weights.kind != 'u' || parts->weights.item_size != 1))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: weights are neither floats nor uint8 (255 "
                            "times the weight)",
                            source->path);
    if (parts->predicted.buffer != NULL &&
        (parts->predicted.ndim != 3 || parts->predicted.kind == 'f' ||
         parts->predicted.shape[0] != shape->token_count ||
         parts->predicted.shape[1] != shape->layer_count ||
         parts->predicted.shape[2] != shape->predicted_k ||
         shape->predicted_k == 0))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: predicted must be integers [tokens, layers, "
                            "any] of the experts' tokens and layers",
                            source->path);
    status = lengths_check(source, "step", &parts->step, shape->token_count);
    if (status == COTERIE_OK)
        status =
            lengths_check(source, "phase", &parts->phase, shape->token_count);
    if (status == COTERIE_OK)
        status =
            lengths_check(source, "token", &parts->token, shape->token_count);
    if (status == COTERIE_OK)
        status = lengths_check(source, "seq_start", &parts->seq_start,
                               shape->sequence_count + 1);
    return status;
}

static coterie_status_t lengths_check(const source_t *source, const char *key,
                                      const coterie_npy_t *part,
                                      uint64_t length)
{
    if (part->buffer == NULL ||
        (part->ndim == 1 && part->kind != 'f' && part->shape[0] == length))
        return COTERIE_OK;
    return coterie_fail(COTERIE_ERR_FORMAT,
                        "%s: %s must be %llu integers in one dimension",
                        source->path, key, (ull_t)length);
}

static coterie_status_t parts_copy(const source_t *source,
                                   coterie_trace_t *trace)
{
    const parts_t *parts = &source->parts;
    coterie_status_t status =
        ids_copy(source, &parts->experts, trace->view.k, trace->experts);

    if (status == COTERIE_OK && trace->predicted != NULL)
        status = ids_copy(source, &parts->predicted, trace->view.predicted_k,
                          trace->predicted);
    if (status == COTERIE_OK)
        status = tokens_copy(source, trace);
    if (status != COTERIE_OK)
        return status;
    if (trace->weights != NULL)
        weights_copy(&parts->weights, trace->weights);
    starts_copy(&parts->seq_start, trace);
    return COTERIE_OK;
}

/* Refuses what int16 might not hold; coterie_trace_check does the rest. */
static coterie_status_t ids_copy(const source_t *source,
                                 const coterie_npy_t *part, uint32_t k,
                                 int16_t *ids)
{
    uint64_t layer_count = part->shape[1];
    uint32_t limit = source->expert_count;

    if (limit == 0)
        limit = COTERIE_TRACE_EXPERTS_MAX;
    for (uint64_t i = 0; i < part->count; i++) {
        int64_t id = coterie_npy_integer(part, i);
        if (id < -1 || id >= limit)
            return coterie_fail(
                COTERIE_ERR_FORMAT,
                "%s: token %llu, layer %llu: expert %lld; ids go from 0 to %u "
                "(-1 = none)",
                source->path, (ull_t)(i / k / layer_count),
                (ull_t)(i / k % layer_count), (long long)id, limit - 1);
        ids[i] = (int16_t)id;
    }
    return COTERIE_OK;
}

static void weights_copy(const coterie_npy_t *part, float *weights)
{
    double unit = part->kind == 'u' ? 1.0 / BYTE_WEIGHT : 1.0;

    for (uint64_t i = 0; i < part->count; i++)
        weights[i] = (float)(coterie_npy_number(part, i) * unit);
}

/* Without seq_start, all tokens are one sequence. A negative entry reads as a
 * huge one, which the check refuses. */
static void starts_copy(const coterie_npy_t *part, coterie_trace_t *trace)
{
    trace->seq_start[0] = 0;
    trace->seq_start[1] = trace->view.token_count;
    if (part->buffer == NULL)
        return;
    for (uint64_t i = 0; i < part->count; i++)
        trace->seq_start[i] = (uint64_t)coterie_npy_integer(part, i);
}

static coterie_status_t tokens_copy(const source_t *source,
                                    coterie_trace_t *trace)
{
    const parts_t *parts = &source->parts;

    for (uint64_t i = 0; i < trace->view.token_count; i++) {
        int64_t step = 0, phase = 0, token = 0;

        if (trace->step != NULL)
            step = coterie_npy_integer(&parts->step, i);
        if (trace->phase != NULL)
            phase = coterie_npy_integer(&parts->phase, i);
        if (trace->token != NULL)
            token = coterie_npy_integer(&parts->token, i);
        if (step < 0 || step > UINT32_MAX || phase < 0 || phase > UINT8_MAX ||
            token < -1 || token > INT32_MAX)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: token %llu: step %lld, phase %lld, id "
                                "%lld: out of range",
                                source->path, (ull_t)i, (long long)step,
                                (long long)phase, (long long)token);
        if (trace->step != NULL)
            trace->step[i] = (uint32_t)step;
        if (trace->phase != NULL)
            trace->phase[i] = (uint8_t)phase;
        if (trace->token != NULL)
            trace->token[i] = (int32_t)token;
    }
    return COTERIE_OK;
}

static void parts_release(parts_t *parts)
{
    coterie_npy_release(&parts->experts);
    coterie_npy_release(&parts->weights);
    coterie_npy_release(&parts->predicted);
    coterie_npy_release(&parts->seq_start);
    coterie_npy_release(&parts->step);
    coterie_npy_release(&parts->phase);
    coterie_npy_release(&parts->token);
}
