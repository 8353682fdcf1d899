#include "config.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/formats.h"
#include "placement/placement.h"

static coterie_status_t lines_read(const coterie_draft_t *draft,
                                   const char *text, uint16_t *rank,
                                   size_t *count_p);
static int line_read(const char *line, size_t number, uint16_t *rank_p);
static bool spread_evenly(const uint16_t *rank, size_t count,
                          uint32_t expert_count, uint32_t rank_count);
static coterie_status_t slots_fill(coterie_draft_t *draft, const uint16_t *rank,
                                   size_t count);

coterie_status_t coterie_csv_placement_read(coterie_draft_t *draft,
                                            const char *text, size_t size)
{
    uint16_t *rank = calloc(size + 1, sizeof(*rank)); /* no more lines */
    size_t count = 0;
    coterie_status_t status;

    if (rank == NULL)
        return coterie_fail_memory(size * sizeof(*rank), draft->path);
    status = lines_read(draft, text, rank, &count);
    for (size_t i = 0; i < count; i++)
        if (rank[i] >= draft->rank_count)
            draft->rank_count = rank[i] + 1u;
    if (status == COTERIE_OK)
        status = slots_fill(draft, rank, count);
    free(rank);
    return status;
}

void coterie_csv_placement_write(const coterie_placement_t *placement,
                                 FILE *stream)
{
    size_t count = (size_t)placement->layer_count * placement->expert_count;

    fprintf(stream, "Expert,Node\n");
    for (size_t i = 0; i < count; i++)
        fprintf(stream, "%zu,%u\n", i, placement->holder_rank[i]);
}

uint32_t coterie_csv_expert_count(const uint16_t *rank, size_t count,
                                  uint32_t rank_count)
{
    for (uint32_t e = rank_count; e <= count && e <= COTERIE_EXPERTS_MAX;
         e += rank_count)
        if (count % e == 0 && spread_evenly(rank, count, e, rank_count))
            return e;
    return 0;
}

static coterie_status_t lines_read(const coterie_draft_t *draft,
                                   const char *text, uint16_t *rank,
                                   size_t *count_p)
{
    const char *line = strchr(text, '\n'); /* after the titles */
    size_t count = 0;

    for (; line != NULL && line[1] != 0; line = strchr(line + 1, '\n')) {
        if (!line_read(line + 1, count, &rank[count]))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: line %zu: must be %zu, a comma and a node "
                                "from 0 to %d",
                                draft->path, count + 2, count,
                                COTERIE_RANKS_MAX - 1);
        count++;
    }
    *count_p = count;
    return COTERIE_OK;
}

/* 1 if the line is "number,node". */
static int line_read(const char *line, size_t number, uint16_t *rank_p)
{
    char *end;
    unsigned long value;

    if (*line < '0' || *line > '9')
        return 0;
    value = strtoul(line, &end, 10);
    if (value != number || *end != ',' || end[1] < '0' || end[1] > '9')
        return 0;
    value = strtoul(end + 1, &end, 10);
    *rank_p = (uint16_t)value;
    return value < COTERIE_RANKS_MAX &&
           (*end == '\n' || *end == '\r' || *end == 0);
}

static bool spread_evenly(const uint16_t *rank, size_t count,
                          uint32_t expert_count, uint32_t rank_count)
{
    uint32_t held[COTERIE_RANKS_MAX];

    for (size_t i = 0; i < count; i++) {
        if (i % expert_count == 0)
            memset(held, 0, rank_count * sizeof(*held));
        if (++held[rank[i]] > expert_count / rank_count)
            return false;
    }
    return true;
}

static coterie_status_t slots_fill(coterie_draft_t *draft, const uint16_t *rank,
                                   size_t count)
{
    uint32_t experts = 0, share, held[COTERIE_RANKS_MAX];
    coterie_status_t status;

    if (draft->rank_count > 0)
        experts = coterie_csv_expert_count(rank, count, draft->rank_count);
    if (experts == 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu experts in no number of layers are spread "
                            "evenly over %u nodes in each",
                            draft->path, count, draft->rank_count);
    share = experts / draft->rank_count;
    status = coterie_draft_slots(draft, count / experts, experts);
    for (size_t i = 0; status == COTERIE_OK && i < count; i++) {
        if (i % experts == 0)
            memset(held, 0, sizeof(held));
        status = coterie_draft_expert(draft, i / experts,
                                      rank[i] * share + held[rank[i]]++,
                                      (long long)(i % experts));
    }
    return status;
}
