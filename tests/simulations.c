#include "config.h"

#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/simulations.h"

coterie_placement_t *simulation_placed(uint32_t layers, uint32_t experts,
                                       uint32_t ranks, uint32_t nodes)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;

    options.layer_count = layers;
    options.expert_count = experts;
    options.rank_count = ranks;
    options.node_count = nodes;
    cr_assert(
        eq(int, COTERIE_OK, coterie_placement_create(&options, &placement)));
    return placement;
}

coterie_simulate_options_t simulation_options(coterie_mode_t mode,
                                              coterie_group_t group)
{
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;

    options.mode = mode;
    options.group = group;
    options.hidden = HIDDEN;
    options.kv_row_size = KV;
    return options;
}

void simulation_expect(const coterie_counts_t *has,
                       const coterie_counts_t *wanted)
{
    static const char *const names[] = {
        "steps",          "tokens",         "alltoalls",    "returns",
        "node_alltoalls", "kv_gathers",     "fixup_sends",  "copies_dispatch",
        "copies_return",  "copies_forward", "copies_fixup", "copies_network",
        "copies_kv",      "payload_bytes",  "wire_bytes",   "kv_bytes",
        "messages",       "empty_messages",
    };
    uint64_t a[sizeof(*has) / 8], b[sizeof(*has) / 8];

    memcpy(a, has, sizeof(a));
    memcpy(b, wanted, sizeof(b));
    for (size_t i = 0; i < sizeof(a) / sizeof(*a); i++)
        cr_expect(eq(u64, a[i], b[i]), "%s", names[i]);
}
