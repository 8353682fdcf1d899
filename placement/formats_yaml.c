#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "base/error.h"
#include "placement/formats.h"
#include "placement/placement.h"

/* One entry of initial_global_assignments. */
typedef struct layer_row {
    long long number; /* the model's layer */
    const yaml_node_t *experts;
} layer_row_t;

static coterie_status_t document_read(coterie_draft_t *draft,
                                      yaml_document_t *document);
static const yaml_node_t *member(yaml_document_t *document,
                                 const yaml_node_t *mapping, const char *name);
static int number_read(const yaml_node_t *node, long long *number_p);
static coterie_status_t rows_read(coterie_draft_t *draft,
                                  yaml_document_t *document,
                                  const yaml_node_t *mapping,
                                  layer_row_t *rows);
static int row_compare(const void *a, const void *b);
static coterie_status_t row_read(coterie_draft_t *draft,
                                 yaml_document_t *document, size_t layer,
                                 const layer_row_t *row);

coterie_status_t coterie_yaml_placement_read(coterie_draft_t *draft,
                                             const char *text, size_t size)
{
    yaml_parser_t parser;
    yaml_document_t document;
    coterie_status_t status;

    if (!yaml_parser_initialize(&parser))
        return coterie_fail_memory(sizeof(parser), "a YAML parser");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    if (yaml_parser_load(&parser, &document)) {
        status = document_read(draft, &document);
        yaml_document_delete(&document);
    } else {
        status = coterie_fail(COTERIE_ERR_FORMAT,
                              "%s: no placement: neither JSON nor ExFlow's "
                              "CSV, and as YAML: line %zu: %s",
                              draft->path, parser.problem_mark.line + 1,
                              parser.problem == NULL ? "out of memory"
                                                     : parser.problem);
    }
    yaml_parser_delete(&parser);
    return status;
}

void coterie_yaml_placement_write(const coterie_placement_t *placement,
                                  FILE *stream)
{
    const int16_t *expert = placement->slot_expert;

    fprintf(stream, "num_slots: %u\ninitial_global_assignments:\n",
            placement->slot_count);
    for (uint32_t l = 0; l < placement->layer_count; l++) {
        fprintf(stream, "  %u: [", l);
        for (uint32_t s = 0; s < placement->slot_count; s++)
            fprintf(stream, "%s%d", s == 0 ? "" : ", ", *expert++);
        fprintf(stream, "]\n");
    }
    fprintf(stream, "layer_updates_per_iter: 0\n"); /* as placed, for good */
}

static coterie_status_t document_read(coterie_draft_t *draft,
                                      yaml_document_t *document)
{
    const yaml_node_t *root = yaml_document_get_root_node(document);
    const yaml_node_t *layers =
        member(document, root, "initial_global_assignments");
    long long slots = 0;
    size_t count = 0;
    layer_row_t *rows;
    coterie_status_t status;

    if (layers != NULL && layers->type == YAML_MAPPING_NODE)
        count = (size_t)(layers->data.mapping.pairs.top -
                         layers->data.mapping.pairs.start);
    if (count == 0 || !number_read(member(document, root, "num_slots"), &slots))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no placement: neither JSON nor ExFlow's CSV, "
                            "nor YAML with num_slots and "
                            "initial_global_assignments",
                            draft->path);
    status = coterie_draft_slots(draft, count, slots < 0 ? 0 : (size_t)slots);
    if (status != COTERIE_OK)
        return status;
    rows = calloc(count, sizeof(*rows));
    if (rows == NULL)
        return coterie_fail_memory(count * sizeof(*rows), draft->path);
    status = rows_read(draft, document, layers, rows);
    for (size_t l = 0; status == COTERIE_OK && l < count; l++)
        status = row_read(draft, document, l, &rows[l]);
    free(rows);
    return status;
}

/* NULL if there is none, or no mapping. */
static const yaml_node_t *member(yaml_document_t *document,
                                 const yaml_node_t *mapping, const char *name)
{
    if (mapping == NULL || mapping->type != YAML_MAPPING_NODE)
        return NULL;
    for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
         pair < mapping->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(document, pair->key);
        if (key->type == YAML_SCALAR_NODE &&
            strcmp((const char *)key->data.scalar.value, name) == 0)
            return yaml_document_get_node(document, pair->value);
    }
    return NULL;
}

static int number_read(const yaml_node_t *node, long long *number_p)
{
    const char *text;
    char *end;

    if (node == NULL || node->type != YAML_SCALAR_NODE)
        return 0;
    text = (const char *)node->data.scalar.value;
    errno = 0;
    *number_p = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == 0;
}

/* The layers are the model's: those with experts, in whatever order. */
static coterie_status_t rows_read(coterie_draft_t *draft,
                                  yaml_document_t *document,
                                  const yaml_node_t *mapping, layer_row_t *rows)
{
    const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
    size_t count = draft->layer_count;

    for (size_t i = 0; i < count; i++, pair++) {
        const yaml_node_t *key = yaml_document_get_node(document, pair->key);
        if (!number_read(key, &rows[i].number))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: line %zu: a layer's number should stand "
                                "here",
                                draft->path, key->start_mark.line + 1);
        rows[i].experts = yaml_document_get_node(document, pair->value);
    }
    qsort(rows, count, sizeof(*rows), row_compare);
    for (size_t i = 1; i < count; i++)
        if (rows[i].number == rows[i - 1].number)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %lld comes twice", draft->path,
                                rows[i].number);
    return COTERIE_OK;
}

static int row_compare(const void *a, const void *b)
{
    const layer_row_t *x = a, *y = b;

    return (x->number > y->number) - (x->number < y->number);
}

static coterie_status_t row_read(coterie_draft_t *draft,
                                 yaml_document_t *document, size_t layer,
                                 const layer_row_t *row)
{
    const yaml_node_item_t *item, *top;
    coterie_status_t status = COTERIE_OK;

    if (row->experts->type != YAML_SEQUENCE_NODE ||
        row->experts->data.sequence.items.top -
                row->experts->data.sequence.items.start !=
            (ptrdiff_t)draft->slot_count)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: layer %lld must be a list of num_slots = %u "
                            "experts",
                            draft->path, row->number, draft->slot_count);
    item = row->experts->data.sequence.items.start;
    top = row->experts->data.sequence.items.top;
    for (size_t s = 0; status == COTERIE_OK && item < top; s++, item++) {
        long long expert;
        if (!number_read(yaml_document_get_node(document, *item), &expert))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %lld, slot %zu: not a whole number",
                                draft->path, row->number, s);
        status = coterie_draft_expert(draft, layer, s, expert);
    }
    return status;
}
