#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/options.h"
#include "experts/model.h"
#include "experts/store.h"
#include "experts/stripes.h"

typedef struct part {
    coterie_output_t output;
    uint64_t position; /* in it */
} part_t;

typedef struct packer {
    const coterie_model_t *model;
    coterie_expert_format_t format; /* of what is written */
    coterie_loss_t loss;
    coterie_pack_options_t options;
    part_t parts[1 + COTERIE_STRIPES_MAX]; /* the store's file, its stripes */
    part_t *part;                          /* that is written to */
    uint64_t done, total; /* bytes of records and tensors */
    void *buffer;         /* for the largest of them */
    void *data;           /* the one that is to be written */
    void *recast;         /* for a record in another dtype, or NULL */
    json_t *records, *tensors;
} packer_t;

static coterie_status_t packer_init(packer_t *packer, const char *path);
static coterie_status_t parts_open(packer_t *packer, const char *path);
static coterie_status_t stripes_differ(const char *path,
                                       const coterie_pack_options_t *options);
static coterie_status_t parts_commit(packer_t *packer);
static coterie_status_t format_choose(packer_t *packer, const char *path);
static coterie_status_t store_write(packer_t *packer);
static coterie_status_t records_write(packer_t *packer);
static coterie_status_t record_recast(packer_t *packer, uint32_t moe_layer,
                                      uint32_t expert);
static json_t *record_entry(const packer_t *packer, uint32_t moe_layer,
                            uint32_t expert);
static void loss_note(packer_t *packer);
static coterie_status_t tensors_write(packer_t *packer);
static coterie_status_t data_write(packer_t *packer, uint64_t size,
                                   json_t *entry, json_t *list);
static coterie_status_t block_pad(packer_t *packer);
static json_t *hash_list(const void *data, uint64_t size);
static json_t *shape_list(const coterie_tensor_t *tensor);
static coterie_status_t index_write(packer_t *packer);
static char *index_text(packer_t *packer);
static json_t *stripe_names(const packer_t *packer);
static coterie_status_t head_write(packer_t *packer, const char *index,
                                   uint64_t size);

coterie_status_t coterie_model_pack(const coterie_model_t *model,
                                    const char *path,
                                    const coterie_pack_options_t *options)
{
    packer_t packer = {.model = model};
    coterie_status_t status;

    if (model == NULL || path == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_model_pack: an argument is NULL");
    status = coterie_options_read(options, &packer.options,
                                  sizeof(packer.options), "coterie_model_pack");
    if (status != COTERIE_OK)
        return status;
    status = packer_init(&packer, path);
    if (status == COTERIE_OK)
        status = parts_open(&packer, path);
    if (status == COTERIE_OK)
        status = store_write(&packer);
    if (status == COTERIE_OK)
        status = parts_commit(&packer);
    for (uint32_t i = 0; i <= COTERIE_STRIPES_MAX; i++)
        coterie_output_abandon(&packer.parts[i].output); /* the rest */
    json_decref(packer.records);
    json_decref(packer.tensors);
    free(packer.buffer);
    free(packer.recast);
    return status;
}

/* One buffer for everything: memory stays at the largest tensor's size. */
static coterie_status_t packer_init(packer_t *packer, const char *path)
{
    const coterie_model_t *model = packer->model;
    const coterie_tensors_t *tensors = &model->source->tensors;
    uint64_t largest = model->format.record_size;
    coterie_status_t status = format_choose(packer, path);

    if (status != COTERIE_OK)
        return status;
    packer->total = packer->format.record_size *
                    model->shape.config.moe_layers *
                    model->shape.config.experts;
    for (size_t i = 0; i < tensors->count; i++) {
        uint64_t size = tensors->items[i].size;
        if (tensors->items[i].role != COTERIE_TENSOR_DENSE)
            continue;
        packer->total += size;
        largest = size > largest ? size : largest;
    }
    packer->buffer = malloc(largest);
    if (packer->format.dtype != model->format.dtype)
        packer->recast = malloc(packer->format.record_size);
    packer->records = json_array();
    packer->tensors = json_array();
    if (packer->buffer == NULL || packer->records == NULL ||
        packer->tensors == NULL ||
        (packer->recast == NULL &&
         packer->format.dtype != model->format.dtype))
        return coterie_fail_memory(largest, "the largest tensor");
    return COTERIE_OK;
}

static coterie_status_t parts_open(packer_t *packer, const char *path)
{
    const coterie_pack_options_t *options = &packer->options;
    const coterie_model_config_t *config = &packer->model->shape.config;
    coterie_status_t status;

    if (options->stripe_count > COTERIE_STRIPES_MAX)
        return coterie_fail(COTERIE_ERR_INVALID, "%s: %u stripes; %d is the "
                            "most", path, options->stripe_count,
                            COTERIE_STRIPES_MAX);
    if (options->stripe_count >= config->moe_layers * config->experts)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: %u stripes beside it; %u experts are too few "
                            "for that",
                            path, options->stripe_count,
                            config->moe_layers * config->experts);
    packer->part = packer->parts;
    status = coterie_output_open(path, options->force != 0,
                                 &packer->part->output);
    if (status == COTERIE_OK)
        status = stripes_differ(path, options);
    for (uint32_t i = 0; i < options->stripe_count && status == COTERIE_OK;
         i++) {
        part_t *part = &packer->parts[1 + i];

        part->position = COTERIE_STORE_BLOCK;
        status = coterie_stripe_begin(options->stripes[i], &part->output);
    }
    return status;
}

/* Two names of one file, or of the store's, would end as one file. */
static coterie_status_t stripes_differ(const char *path,
                                       const coterie_pack_options_t *options)
{
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; i < options->stripe_count && status == COTERIE_OK;
         i++)
        for (uint32_t j = 0; j <= i && status == COTERIE_OK; j++) {
            const char *before = j == 0 ? path : options->stripes[j - 1];
            char *one = coterie_stripe_name(path, before);
            char *other = coterie_stripe_name(path, options->stripes[i]);

            if (one != NULL && other != NULL && strcmp(one, other) == 0)
                status = coterie_fail(COTERIE_ERR_INVALID,
                                      "%s: given twice; every stripe is a "
                                      "file of its own",
                                      options->stripes[i]);
            free(one);
            free(other);
        }
    return status;
}

/* The store's own file last: whenever we are killed, there is the old store or
 * the new one. */
static coterie_status_t parts_commit(packer_t *packer)
{
    const coterie_pack_options_t *options = &packer->options;
    uint32_t done = 0;
    coterie_status_t status = COTERIE_OK;

    while (done < options->stripe_count && status == COTERIE_OK) {
        status = coterie_output_commit(&packer->parts[1 + done].output);
        done += status == COTERIE_OK;
    }
    if (status == COTERIE_OK)
        status = coterie_output_commit(&packer->parts[0].output);
    for (uint32_t i = 0; i < done && status != COTERIE_OK; i++)
        unlink(options->stripes[i]); /* nothing had that name before */
    return status;
}

/* The model's own, which is written bit for bit, or the one asked for. */
static coterie_status_t format_choose(packer_t *packer, const char *path)
{
    const coterie_model_t *model = packer->model;
    uint32_t dtype = packer->options.dtype;

    packer->format = model->format;
    if (dtype == 0 || dtype == model->format.dtype)
        return COTERIE_OK;
    if (dtype > COTERIE_DTYPE_MXFP4)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_model_pack: there is no dtype %u", dtype);
    return coterie_expert_format_init(&model->shape.config, dtype, path,
                                      &packer->format);
}

static coterie_status_t store_write(packer_t *packer)
{
    static const char block[COTERIE_STORE_BLOCK];
    coterie_status_t status;

    /* The superblock is written last, when the index is known. */
    status = coterie_output_write(&packer->part->output, block, sizeof(block));
    packer->part->position = sizeof(block);
    if (status == COTERIE_OK)
        status = records_write(packer);
    if (status == COTERIE_OK)
        status = tensors_write(packer);
    if (status == COTERIE_OK)
        status = index_write(packer);
    return status;
}

/* Records come first and without gaps; over stripes they take turns, so that
 * those of a layer are read from all drives. */
static coterie_status_t records_write(packer_t *packer)
{
    const coterie_model_t *model = packer->model;
    const coterie_model_config_t *config = &model->shape.config;
    uint32_t count = config->moe_layers * config->experts;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; i < count && status == COTERIE_OK; i++) {
        uint32_t l = i / config->experts, e = i % config->experts;
        status = coterie_model_expert(model, l, e, packer->buffer);
        if (status == COTERIE_OK && packer->recast != NULL)
            status = record_recast(packer, l, e);
        packer->data =
            packer->recast != NULL ? packer->recast : packer->buffer;
        packer->part =
            &packer->parts[i % (packer->options.stripe_count + 1)];
        if (status == COTERIE_OK)
            status = data_write(packer, packer->format.record_size,
                                record_entry(packer, l, e), packer->records);
    }
    packer->part = packer->parts;
    if (packer->recast != NULL && status == COTERIE_OK)
        loss_note(packer);
    return status;
}

static coterie_status_t record_recast(packer_t *packer, uint32_t moe_layer,
                                      uint32_t expert)
{
    const coterie_model_t *model = packer->model;
    char what[512];

    snprintf(what, sizeof(what), "%s: expert (%u, %u)", model->source->path,
             moe_layer, expert);
    return coterie_record_recast(&model->format, packer->buffer,
                                 &packer->format, what, packer->recast,
                                 &packer->loss);
}

static void loss_note(packer_t *packer)
{
    packer->format.packed_from = packer->model->format.dtype;
    if (packer->loss.whole > 0)
        packer->format.error =
            (float)sqrt(packer->loss.difference / packer->loss.whole);
}

/* As they are stored: a store loses no bits and gains none. */
static coterie_status_t tensors_write(packer_t *packer)
{
    const coterie_source_t *source = packer->model->source;
    coterie_status_t status = COTERIE_OK;

    for (size_t i = 0; i < source->tensors.count && status == COTERIE_OK;
         i++) {
        const coterie_tensor_t *tensor = &source->tensors.items[i];
        if (tensor->role != COTERIE_TENSOR_DENSE)
            continue;
        packer->data = packer->buffer;
        status = source->ops->read(source, tensor, packer->buffer);
        if (status == COTERIE_OK)
            status = data_write(
                packer, tensor->size,
                json_pack("{s:s, s:s, s:o}", "name", tensor->name, "dtype",
                          coterie_tensor_dtype_name(tensor->dtype), "shape",
                          shape_list(tensor)),
                packer->tensors);
    }
    return status;
}

/* What is not in a stripe does not say so. */
static json_t *record_entry(const packer_t *packer, uint32_t moe_layer,
                            uint32_t expert)
{
    json_t *entry = json_pack("{s:I, s:I, s:I}", "moe_layer",
                              (json_int_t)moe_layer, "expert",
                              (json_int_t)expert, "layout",
                              (json_int_t)packer->format.layout);

    if (packer->part != packer->parts)
        json_object_set_new(entry, "stripe",
                            json_integer(packer->part - packer->parts));
    return entry;
}

/* Writes size bytes of the data and moves their completed entry to list. */
static coterie_status_t data_write(packer_t *packer, uint64_t size,
                                   json_t *entry, json_t *list)
{
    const coterie_pack_options_t *options = &packer->options;
    coterie_status_t status;
    int failed;

    /* Each takes its value over even when it fails, and refuses NULL; so one
     * look at the end is enough, also for an entry that could not be made. */
    failed = json_object_set_new(
        entry, "offset", json_integer((json_int_t)packer->part->position));
    failed |= json_object_set_new(entry, "xxh3",
                                  hash_list(packer->data, size));
    failed |= json_array_append_new(list, entry);
    if (failed)
        return coterie_fail_memory(size / COTERIE_STORE_CHUNK, "the index");
    status = coterie_output_write(&packer->part->output, packer->data, size);
    packer->part->position += size;
    if (status == COTERIE_OK)
        status = block_pad(packer);
    packer->done += size;
    if (status == COTERIE_OK && options->progress != NULL)
        options->progress(options->progress_arg, packer->done, packer->total);
    return status;
}

/* Up to the next block: direct reads need aligned beginnings. */
static coterie_status_t block_pad(packer_t *packer)
{
    static const char zeros[COTERIE_STORE_BLOCK];
    part_t *part = packer->part;
    uint64_t size = -part->position % COTERIE_STORE_BLOCK;

    part->position += size;
    return coterie_output_write(&part->output, zeros, size);
}

/* NULL when out of memory, which json_object_set_new passes on. */
static json_t *hash_list(const void *data, uint64_t size)
{
    json_t *list = json_array();

    for (uint64_t begin = 0; begin < size; begin += COTERIE_STORE_CHUNK) {
        uint64_t left = size - begin;
        uint64_t hash = coterie_store_hash(
            (const char *)data + begin,
            left < COTERIE_STORE_CHUNK ? left : COTERIE_STORE_CHUNK);
        char text[COTERIE_STORE_HASH_TEXT];
        snprintf(text, sizeof(text), "%016" PRIx64, hash);
        if (json_array_append_new(list, json_string(text)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *shape_list(const coterie_tensor_t *tensor)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < tensor->rank; i++)
        if (json_array_append_new(
                list, json_integer((json_int_t)tensor->shape[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static coterie_status_t index_write(packer_t *packer)
{
    char *text = index_text(packer);
    uint64_t size;
    coterie_status_t status;

    if (text == NULL)
        return coterie_fail_memory(0, "the store's index");
    size = strlen(text);
    status = coterie_output_write(&packer->part->output, text, size);
    if (status == COTERIE_OK)
        status = head_write(packer, text, size);
    for (uint32_t i = 1;
         i <= packer->options.stripe_count && status == COTERIE_OK; i++)
        status = coterie_stripe_end(&packer->parts[i].output, i,
                                    packer->parts[i].position,
                                    coterie_store_hash(text, size));
    free(text);
    return status;
}

static char *index_text(packer_t *packer)
{
    const coterie_expert_format_t *format = &packer->format;
    json_t *experts = json_pack(
        "{s:s, s:I}", "dtype", coterie_dtype_name(format->dtype),
        "record_size", (json_int_t)format->record_size);
    json_t *lossy = json_pack(
        "{s:s, s:f}", "packed_from", coterie_dtype_name(format->packed_from),
        "error", (double)format->error);
    json_t *index;
    char *text;

    if (format->packed_from != 0)
        json_object_update(experts, lossy);
    if (packer->options.stripe_count > 0)
        json_object_set_new(experts, "stripes", stripe_names(packer));
    json_object_set(experts, "records", packer->records);
    index = json_pack("{s:s, s:o, s:O}", "config",
                      packer->model->source->config_text, "experts", experts,
                      "tensors", packer->tensors);
    text = json_dumps(index, JSON_COMPACT);
    json_decref(lossy);
    json_decref(index);
    return text;
}

static json_t *stripe_names(const packer_t *packer)
{
    const char *path = packer->parts[0].output.path;
    json_t *list = json_array();

    for (uint32_t i = 0; i < packer->options.stripe_count; i++) {
        char *name = coterie_stripe_name(path, packer->options.stripes[i]);

        json_array_append_new(list, json_string(name));
        free(name);
    }
    return list;
}

/* Goes back over the zeros at the beginning. */
static coterie_status_t head_write(packer_t *packer, const char *index,
                                   uint64_t size)
{
    coterie_store_head_t head = {
        .magic = COTERIE_STORE_MAGIC,
        .version = COTERIE_STORE_VERSION,
        .index_offset = packer->part->position,
        .index_size = size,
        .index_hash = coterie_store_hash(index, size),
    };

    head.head_hash = coterie_store_head_hash(&head);
    if (fseeko(packer->part->output.stream, 0, SEEK_SET) != 0)
        return coterie_fail(COTERIE_ERR_IO, "%s: cannot go back to byte 0",
                            packer->part->output.path);
    return coterie_output_write(&packer->part->output, &head, sizeof(head));
}
