#include "config.h"

#include <string.h>

#include "tests/draw.h"
#include "tests/planted.h"
#include "tests/trace_files.h"

enum { PHASE_TOKENS = 40, PHASE_EXPERTS = 5 };

static int16_t ids[PLANTED_SETS_MAX * PLANTED_K];
static uint64_t seq_start[2];

static int16_t expert_draw(planted_rule_t rule, uint64_t token, int layer,
                           const int16_t *before);

coterie_trace_view_t planted(planted_rule_t rule, uint64_t tokens)
{
    uint64_t sets = tokens * PLANTED_LAYERS;

    for (uint64_t set = 0; set < sets; set++) {
        int layer = (int)(set % PLANTED_LAYERS);
        int16_t *own = ids + set * PLANTED_K;
        for (int i = 0; i < PLANTED_K; i++)
            do
                own[i] = expert_draw(rule, set / PLANTED_LAYERS, layer,
                                     layer > 0 ? own + i - PLANTED_K : NULL);
            while (i > 0 && own[i] == own[0]);
    }
    seq_start[1] = tokens;
    return (coterie_trace_view_t){.token_count = tokens,
                                  .sequence_count = 1,
                                  .layer_count = PLANTED_LAYERS,
                                  .expert_count = PLANTED_EXPERTS,
                                  .k = PLANTED_K,
                                  .experts = ids,
                                  .seq_start = seq_start};
}

void planted_put(const char *name, planted_rule_t rule, uint64_t tokens)
{
    const uint64_t shape[] = {tokens, PLANTED_LAYERS, PLANTED_K, 0};

    planted(rule, tokens);
    array_put(name, "i2", shape, ids);
}

static int16_t expert_draw(planted_rule_t rule, uint64_t token, int layer,
                           const int16_t *before)
{
    uint32_t any = draw(PLANTED_EXPERTS), other = draw(PLANTED_EXPERTS);

    if (rule == PLANTED_POPULAR)
        return (int16_t)(any < other ? any : other);
    if (rule == PLANTED_FOLLOWING && before != NULL && draw(10) > 0)
        return (int16_t)((*before + 3) % PLANTED_EXPERTS);
    if (rule == PLANTED_PHASES && draw(10) > 0)
        return (int16_t)((token / PHASE_TOKENS * 7 + (uint64_t)layer * 3 +
                          draw(PHASE_EXPERTS)) %
                         PLANTED_EXPERTS);
    return (int16_t)any;
}
