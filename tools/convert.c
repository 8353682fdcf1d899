#include "config.h"

#include "tools/command.h"
#include "tools/modes.h"

typedef struct convert_options {
    const char *output;
    uint32_t format, ranks;
    bool force;
} convert_options_t;

static int convert_run(const invocation_t *in);

static const option_spec_t convert_specs[] = {
    {"output", 'o', OPTION_TEXT, offsetof(convert_options_t, output), "OUT",
     "where to write it", 0, 0, NULL},
    {"format", 'f', OPTION_CHOICE, offsetof(convert_options_t, format),
     "NAME", "of OUT: one of those below (coterie)", 0, 0, format_names},
    {"ranks", 'r', OPTION_COUNT, offsetof(convert_options_t, ranks), "R",
     "ranks, where IN does not say", 1, 4096, NULL},
    {"force", 0, OPTION_FLAG, offsetof(convert_options_t, force), NULL,
     "overwrite an existing file", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_convert = {
    .name = "convert",
    .operands = "IN",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "rewrites a placement in another engine's format",
    .details = "coterie   this library's JSON, which says most\n"
               "sglang    --init-expert-location JSON\n"
               "vllm      per-layer list of physical experts\n"
               "ascend    vllm-ascend's expert map\n"
               "tensorrt  TensorRT-LLM's YAML\n"
               "exflow    CSV of Expert,Node\n"
               "eplb      JSON of EPLB's physical and logical maps\n\n"
               "IN is told apart by its content. What the other format cannot "
               "say is refused,\nnot dropped silently, but for next-layer "
               "scores, which only Coterie's has.\n",
    .options = convert_specs,
    .options_size = sizeof(convert_options_t),
    .run = convert_run};

static int convert_run(const invocation_t *in)
{
    const convert_options_t *o = in->options;
    coterie_placement_t *placement = NULL;
    coterie_status_t status;

    if (o->output == NULL)
        return command_refuse(in, "needs -o OUT");
    status = coterie_placement_read(in->operands[0], o->ranks, &placement);
    if (status == COTERIE_OK)
        status = coterie_placement_write(
            placement, o->output, (coterie_placement_format_t)o->format,
            o->force);
    coterie_placement_destroy(placement);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}
