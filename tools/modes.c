#include "config.h"

#include "tools/modes.h"

const char *const mode_names[] = {"auto", "two-phase", "owner", "forward",
                                  NULL};
const char *const group_choices[] = {"auto", "all",    "node",
                                     "none", "across", NULL};
const char *const format_names[] = {"coterie",  "sglang", "vllm", "ascend",
                                    "tensorrt", "exflow", "eplb",   NULL};
const char *const compute_names[] = {"f32", "bf16", "int8", NULL};
const char *const wire_names[] = {"f32", "bf16", "int8", NULL};
const char *const policy_names[] = {"lru", "lfu", "cost", NULL};
const char *const polling_names[] = {"none", "sqpoll", "iopoll", NULL};

coterie_group_t group_choose(uint32_t choice, coterie_mode_t mode)
{
    if (choice > 0)
        return (coterie_group_t)(choice - 1);
    return mode == COTERIE_MODE_TWO_PHASE ? COTERIE_GROUP_NONE
                                          : COTERIE_GROUP_ALL;
}
