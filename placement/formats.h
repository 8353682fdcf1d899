#ifndef COTERIE_PLACEMENT_FORMATS_H
#define COTERIE_PLACEMENT_FORMATS_H
/* Placement files: what the readers of each format fill, and the writers. */
#include <stdio.h>

#include <jansson.h>

#include <coterie/placement.h>

/* A placement as it is read. Counts that a file does not say stay 0; the
 * arrays belong to the draft. */
typedef struct coterie_draft {
    const char *path;
    uint32_t layer_count, expert_count, rank_count, node_count, slot_count;
    uint16_t *slot_rank;
    int16_t *slot_expert;
    uint8_t *next_score;
} coterie_draft_t;

/* Makes room for layer_count x slot_count experts. */
coterie_status_t coterie_draft_slots(coterie_draft_t *draft, size_t layer_count,
                                     size_t slot_count);

/* Stores one expert id as the file has it. */
coterie_status_t coterie_draft_expert(coterie_draft_t *draft, size_t layer,
                                      size_t slot, long long expert);

/* Text ends with a zero byte that is not counted in size. */
coterie_status_t coterie_json_placement_read(coterie_draft_t *draft,
                                             const char *text, size_t size);
coterie_status_t coterie_yaml_placement_read(coterie_draft_t *draft,
                                             const char *text, size_t size);
coterie_status_t coterie_csv_placement_read(coterie_draft_t *draft,
                                            const char *text, size_t size);

/* EPLB's maps beside physical_to_logical_map, which was read: those that are
 * there must agree with it. */
coterie_status_t coterie_eplb_check(const coterie_draft_t *draft,
                                    const json_t *root);

/* These write what was found expressible; the caller checks the stream. */
coterie_status_t coterie_json_placement_write(
    const coterie_placement_t *placement, coterie_placement_format_t format,
    FILE *stream);
json_t *coterie_eplb_make(const coterie_placement_t *placement,
                                 json_t *physical);
void coterie_yaml_placement_write(const coterie_placement_t *placement,
                                  FILE *stream);
void coterie_csv_placement_write(const coterie_placement_t *placement,
                                 FILE *stream);

/* How many experts a layer an ExFlow file with these ranks, layer by layer,
 * has: it does not say, so the smallest number that spreads every layer evenly
 * over the ranks; 0 if none does. */
uint32_t coterie_csv_expert_count(const uint16_t *rank, size_t count,
                                  uint32_t rank_count);

#endif
