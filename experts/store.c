#include "config.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_XXH3_64BITS_DISPATCH
#include <xxh_x86dispatch.h> /* gives XXH3_64bits another meaning */
#else
#include <xxhash.h>
#endif

#include "base/error.h"
#include "experts/store.h"
#include "experts/stripes.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stores are read in place and are little-endian"
#endif

/* What an entry of the index says about: of `what`, size bytes of a file. */
typedef struct place {
    const json_t *entry;
    const char *what;
    const coterie_datafile_t *file;
    uint64_t size;
} place_t;

typedef struct record {
    uint64_t offset, first_hash;
    uint32_t file;
} record_t;

typedef struct store {
    coterie_source_t base;
    coterie_datafile_t files[1 + COTERIE_STRIPES_MAX]; /* its own first */
    uint32_t file_count;
    uint64_t index_hash;
    coterie_expert_format_t format;
    uint64_t record_size; /* as the index says */
    uint32_t dtype;       /* of the experts, as the index says, */
    uint32_t packed_from; /* and what they were before, or 0, */
    double error;         /* and what that lost */
    uint32_t experts;     /* a layer; known once bound */
    record_t *records;
    size_t record_count;
    uint64_t *hashes; /* of all tensors and records, as the index lists them */
    size_t hash_count, hash_room;
} store_t;

static coterie_status_t store_bind(coterie_source_t *source,
                                   const coterie_shape_t *shape,
                                   coterie_expert_format_t *format);
static coterie_status_t store_read(const coterie_source_t *source,
                                   const coterie_tensor_t *tensor, void *data);
static coterie_status_t store_expert(const coterie_source_t *source,
                                     uint32_t moe_layer, uint32_t expert,
                                     void *record);
static void store_close(coterie_source_t *source);

static const coterie_source_ops_t store_ops = {
    "expert store", store_bind, store_read, store_expert, store_close};

static coterie_status_t store_load(store_t *store);
static coterie_status_t head_load(const store_t *store,
                                  coterie_store_head_t *head);
static coterie_status_t index_load(store_t *store,
                                   const coterie_store_head_t *head,
                                   json_t **index_p);
static coterie_status_t index_read(store_t *store, const json_t *index);
static coterie_status_t tensors_read(store_t *store, const json_t *list);
static coterie_status_t experts_read(store_t *store, const json_t *experts);
static coterie_status_t stripes_open(store_t *store, const json_t *list);
static coterie_status_t record_read(store_t *store, const json_t *entry,
                                    size_t ordinal);
static coterie_status_t place_read(store_t *store, const place_t *place,
                                   uint64_t *offset_p);
static coterie_status_t hashes_read(store_t *store, const json_t *list,
                                    const char *what, uint64_t size);
static coterie_status_t chunks_verify(const store_t *store, const void *data,
                                      uint64_t size, uint64_t first_hash,
                                      const char *what);

uint64_t coterie_store_hash(const void *data, uint64_t size)
{
    return XXH3_64bits(data, size);
}

uint64_t coterie_store_head_hash(const coterie_store_head_t *head)
{
    return coterie_store_hash(head, offsetof(coterie_store_head_t, head_hash));
}

uint64_t coterie_store_chunks(uint64_t size)
{
    return (size + COTERIE_STORE_CHUNK - 1) / COTERIE_STORE_CHUNK;
}

coterie_status_t coterie_store_open(const char *path,
                                    coterie_source_t **source_p)
{
    store_t *store = calloc(1, sizeof(*store));
    coterie_status_t status;

    if (store == NULL)
        return coterie_fail_memory(sizeof(*store), "a store");
    status = coterie_source_init(&store->base, &store_ops, path);
    if (status == COTERIE_OK)
        status = coterie_datafile_open(path, &store->files[0]);
    store->file_count = 1;
    if (status == COTERIE_OK)
        status = store_load(store);
    if (status != COTERIE_OK) {
        store_close(&store->base);
        return status;
    }
    *source_p = &store->base;
    return COTERIE_OK;
}

const coterie_datafile_t *coterie_store_file(const coterie_source_t *source,
                                             uint32_t file)
{
    const store_t *store = (const store_t *)source;

    if (source->ops != &store_ops || file >= store->file_count)
        return NULL;
    return &store->files[file];
}

coterie_extent_t coterie_store_extent(const coterie_source_t *source,
                                      uint32_t moe_layer, uint32_t expert)
{
    const store_t *store = (const store_t *)source;
    size_t ordinal = (size_t)moe_layer * store->experts + expert;

    assert(source->ops == &store_ops && ordinal < store->record_count);
    return (coterie_extent_t){store->records[ordinal].file,
                              store->records[ordinal].offset,
                              store->record_size,
                              store->hashes +
                                  store->records[ordinal].first_hash};
}

/* Only now is it known how many records of which size there must be. */
static coterie_status_t store_bind(coterie_source_t *source,
                                   const coterie_shape_t *shape,
                                   coterie_expert_format_t *format)
{
    store_t *store = (store_t *)source;
    const coterie_model_config_t *config = &shape->config;
    uint64_t right = (uint64_t)config->moe_layers * config->experts;
    coterie_status_t status = coterie_expert_format_init(
        config, store->dtype, source->path, &store->format);

    if (status != COTERIE_OK)
        return status;
    store->format.packed_from = store->packed_from;
    store->format.error = (float)store->error;
    if (store->record_count != right)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu expert records; its config asks for "
                            "%" PRIu64,
                            source->path, store->record_count, right);
    if (store->record_size != store->format.record_size)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: records of %" PRIu64
                            " bytes; its config asks for %" PRIu64,
                            source->path, store->record_size,
                            store->format.record_size);
    store->experts = config->experts;
    *format = store->format;
    return COTERIE_OK;
}

static coterie_status_t store_read(const coterie_source_t *source,
                                   const coterie_tensor_t *tensor, void *data)
{
    const store_t *store = (const store_t *)source;
    coterie_status_t status = coterie_datafile_read(
        &store->files[0], tensor->offset, data, tensor->size);

    if (status != COTERIE_OK)
        return status;
    return chunks_verify(store, data, tensor->size, tensor->first_hash,
                         tensor->name);
}

static coterie_status_t store_expert(const coterie_source_t *source,
                                     uint32_t moe_layer, uint32_t expert,
                                     void *data)
{
    const store_t *store = (const store_t *)source;
    const record_t *record =
        &store->records[(size_t)moe_layer * store->experts + expert];
    char what[64];
    coterie_status_t status = coterie_datafile_read(
        &store->files[record->file], record->offset, data,
        store->record_size);

    if (status != COTERIE_OK)
        return status;
    snprintf(what, sizeof(what), "expert (%u, %u)", moe_layer, expert);
    return chunks_verify(store, data, store->record_size, record->first_hash,
                         what);
}

static void store_close(coterie_source_t *source)
{
    store_t *store = (store_t *)source;

    free(store->records);
    free(store->hashes);
    for (uint32_t i = 0; i <= COTERIE_STRIPES_MAX; i++)
        coterie_datafile_close(&store->files[i]);
    coterie_source_clear(source);
    free(store);
}

static coterie_status_t store_load(store_t *store)
{
    coterie_store_head_t head;
    json_t *index = NULL;
    coterie_status_t status;

    status = head_load(store, &head);
    store->index_hash = head.index_hash;
    if (status == COTERIE_OK)
        status = index_load(store, &head, &index);
    if (status == COTERIE_OK)
        status = index_read(store, index);
    if (status == COTERIE_OK)
        status = coterie_tensors_sort(&store->base.tensors, store->base.path);
    json_decref(index);
    return status;
}

static coterie_status_t head_load(const store_t *store,
                                  coterie_store_head_t *head)
{
    const char *path = store->base.path;
    coterie_status_t status;

    if (store->files[0].size >= COTERIE_STORE_BLOCK)
        status =
            coterie_datafile_read(&store->files[0], 0, head, sizeof(*head));
    else
        status = COTERIE_ERR_FORMAT;
    if (status == COTERIE_ERR_IO)
        return status;
    if (status != COTERIE_OK ||
        memcmp(head->magic, COTERIE_STORE_MAGIC, sizeof(head->magic)) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: neither a model's directory nor an expert "
                            "store",
                            path);
    /* Before the version: a flipped bit there is damage, not a newer format. */
    if (head->head_hash != coterie_store_head_hash(head))
        return coterie_fail(COTERIE_ERR_CORRUPT,
                            "%s: the superblock's checksum does not match",
                            path);
    if (head->version != COTERIE_STORE_VERSION)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: expert store of version %u; this library "
                            "reads %d; `coterie pack` makes one",
                            path, head->version, COTERIE_STORE_VERSION);
    return COTERIE_OK;
}

/* The index ends the file, so a file cut short is noticed here. */
static coterie_status_t index_load(store_t *store,
                                   const coterie_store_head_t *head,
                                   json_t **index_p)
{
    const char *path = store->base.path;
    char *text;
    coterie_status_t status;

    if (head->index_offset > store->files[0].size ||
        head->index_size != store->files[0].size - head->index_offset)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %" PRIu64 " bytes; its superblock says "
                            "%" PRIu64 " + %" PRIu64,
                            path, store->files[0].size, head->index_offset,
                            head->index_size);
    text = malloc(head->index_size + 1); /* malloc(0) may be NULL */
    if (text == NULL)
        return coterie_fail_memory(head->index_size, "a store's index");
    status = coterie_datafile_read(&store->files[0], head->index_offset, text,
                                   head->index_size);
    if (status == COTERIE_OK &&
        coterie_store_hash(text, head->index_size) != head->index_hash)
        status = coterie_fail(COTERIE_ERR_CORRUPT,
                              "%s: the index's checksum does not match", path);
    if (status == COTERIE_OK) {
        *index_p = json_loadb(text, head->index_size, JSON_REJECT_DUPLICATES,
                              NULL);
        if (*index_p == NULL)
            status = coterie_fail(COTERIE_ERR_FORMAT,
                                  "%s: the index is not JSON", path);
    }
    free(text);
    return status;
}

static coterie_status_t index_read(store_t *store, const json_t *index)
{
    const char *config = json_string_value(json_object_get(index, "config"));
    coterie_status_t status;

    if (config == NULL)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: the index has no config",
                            store->base.path);
    store->base.config_text = strdup(config);
    if (store->base.config_text == NULL)
        return coterie_fail_memory(strlen(config) + 1, "a config");
    status = tensors_read(store, json_object_get(index, "tensors"));
    if (status == COTERIE_OK)
        status = experts_read(store, json_object_get(index, "experts"));
    return status;
}

static coterie_status_t tensors_read(store_t *store, const json_t *list)
{
    const char *path = store->base.path;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        coterie_tensor_t tensor = {.first_hash = store->hash_count};
        coterie_status_t status;

        if (name == NULL)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: tensor %zu has no name", path, i);
        tensor.name = (char *)name;
        status = coterie_tensor_parse(entry, path, &tensor);
        if (status == COTERIE_OK)
            status = place_read(
                store,
                &(place_t){entry, name, &store->files[0], tensor.size},
                &tensor.offset);
        if (status == COTERIE_OK)
            status = coterie_tensors_add(&store->base.tensors, &tensor);
        if (status != COTERIE_OK)
            return status;
    }
    return COTERIE_OK;
}

static coterie_status_t experts_read(store_t *store, const json_t *experts)
{
    const char *path = store->base.path;
    const char *dtype = json_string_value(json_object_get(experts, "dtype"));
    const char *before =
        json_string_value(json_object_get(experts, "packed_from"));
    json_int_t size =
        json_integer_value(json_object_get(experts, "record_size"));
    const json_t *records = json_object_get(experts, "records");
    size_t count = json_array_size(records);
    coterie_status_t status = COTERIE_OK;

    if (dtype == NULL || count == 0 || size <= 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the index tells of no experts", path);
    store->record_size = (uint64_t)size;
    store->records = calloc(count, sizeof(*store->records));
    if (store->records == NULL)
        return coterie_fail_memory(count * sizeof(*store->records), "records");
    status = stripes_open(store, json_object_get(experts, "stripes"));
    for (size_t i = 0; i < count && status == COTERIE_OK; i++)
        status = record_read(store, json_array_get(records, i), i);
    store->record_count = count;
    if (status == COTERIE_OK)
        status = coterie_dtype_parse(dtype, &store->dtype);
    if (status == COTERIE_OK && before != NULL)
        status = coterie_dtype_parse(before, &store->packed_from);
    store->error = json_number_value(json_object_get(experts, "error"));
    return status;
}

/* Without any, the array is missing. */
static coterie_status_t stripes_open(store_t *store, const json_t *list)
{
    const char *path = store->base.path;
    size_t count = json_array_size(list);
    coterie_status_t status = COTERIE_OK;

    if (count > COTERIE_STRIPES_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu stripes; %d is the most", path, count,
                            COTERIE_STRIPES_MAX);
    for (size_t i = 0; i < count && status == COTERIE_OK; i++) {
        const char *name = json_string_value(json_array_get(list, i));

        if (name == NULL)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: stripe %zu has no name", path, i + 1);
        status = coterie_stripe_open(path, name, (uint32_t)i + 1,
                                     store->index_hash,
                                     &store->files[i + 1]);
        store->file_count += status == COTERIE_OK;
    }
    return status;
}

static coterie_status_t record_read(store_t *store, const json_t *entry,
                                    size_t ordinal)
{
    json_int_t layout = json_integer_value(json_object_get(entry, "layout"));
    json_int_t stripe = json_integer_value(json_object_get(entry, "stripe"));
    record_t *record = &store->records[ordinal];
    char what[64];

    snprintf(what, sizeof(what),
             "expert (%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT ")",
             json_integer_value(json_object_get(entry, "moe_layer")),
             json_integer_value(json_object_get(entry, "expert")));
    if (layout != COTERIE_LAYOUT_PANELS)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: %s has layout %" JSON_INTEGER_FORMAT
                            "; the kernels need %d: repack with `coterie "
                            "pack MODEL_DIR -o STORE`",
                            store->base.path, what, layout,
                            COTERIE_LAYOUT_PANELS);
    record->first_hash = store->hash_count;
    if (stripe < 0 || stripe >= store->file_count)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s is in stripe %" JSON_INTEGER_FORMAT
                            " of %u",
                            store->base.path, what, stripe,
                            store->file_count - 1);
    record->file = (uint32_t)stripe;
    return place_read(store,
                      &(place_t){entry, what, &store->files[stripe],
                                 store->record_size},
                      &record->offset);
}

/* Where size bytes lie, and their checksums. The index is checksummed, but a
 * wrong writer's checksums are right: nothing in it is trusted. */
static coterie_status_t place_read(store_t *store, const place_t *place,
                                   uint64_t *offset_p)
{
    const json_t *value = json_object_get(place->entry, "offset");
    json_int_t offset = json_integer_value(value);

    if (!json_is_integer(value) || offset < COTERIE_STORE_BLOCK ||
        offset % COTERIE_STORE_BLOCK != 0 ||
        (uint64_t)offset > place->file->size ||
        place->size > place->file->size - (uint64_t)offset)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s: offset %" JSON_INTEGER_FORMAT
                            " and %" PRIu64 " bytes do not fit a file of "
                            "%" PRIu64 " in blocks of %d",
                            place->file->path, place->what, offset,
                            place->size, place->file->size,
                            COTERIE_STORE_BLOCK);
    *offset_p = (uint64_t)offset;
    return hashes_read(store, json_object_get(place->entry, "xxh3"),
                       place->what, place->size);
}

static coterie_status_t hashes_read(store_t *store, const json_t *list,
                                    const char *what, uint64_t size)
{
    size_t count = json_array_size(list);
    size_t room = store->hash_count + count;

    if (count != coterie_store_chunks(size))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s has %zu checksums; %" PRIu64 " are right",
                            store->base.path, what, count,
                            coterie_store_chunks(size));
    if (room > store->hash_room) {
        uint64_t *hashes = realloc(store->hashes, 2 * room * sizeof(*hashes));
        if (hashes == NULL)
            return coterie_fail_memory(2 * room * sizeof(*hashes),
                                       "checksums");
        store->hashes = hashes;
        store->hash_room = 2 * room;
    }
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text == NULL || strlen(text) != COTERIE_STORE_HASH_TEXT - 1)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s: checksum %zu is not 16 hexadecimal "
                                "digits",
                                store->base.path, what, i);
        store->hashes[store->hash_count++] = strtoull(text, NULL, 16);
    }
    return COTERIE_OK;
}

/* After the read, on the caller's buffer: what is verified is what is used. */
static coterie_status_t chunks_verify(const store_t *store, const void *data,
                                      uint64_t size, uint64_t first_hash,
                                      const char *what)
{
    uint64_t count = coterie_store_chunks(size);

    assert(first_hash + count <= store->hash_count);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t begin = i * COTERIE_STORE_CHUNK, left = size - begin;
        uint64_t hash = coterie_store_hash(
            (const char *)data + begin,
            left < COTERIE_STORE_CHUNK ? left : COTERIE_STORE_CHUNK);
        if (hash != store->hashes[first_hash + i])
            return coterie_fail(COTERIE_ERR_CORRUPT,
                                "%s: %s: chunk %" PRIu64 " of %" PRIu64
                                ": checksum mismatch; pack the model again",
                                store->base.path, what, i + 1, count);
    }
    return COTERIE_OK;
}
