#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "tools/command.h"
#include "tools/report.h"

typedef struct pack_options {
    const char *output, *dtype;
    argument_list_t stripes;
    bool force;
} pack_options_t;

static void pack_progress(void *arg, uint64_t done, uint64_t total);
static int pack_run(const invocation_t *in);

static const option_spec_t pack_specs[] = {
    {"output", 'o', OPTION_TEXT, offsetof(pack_options_t, output), "STORE",
     "where to write the store", 0, 0, NULL},
    {"stripe", 0, OPTION_LIST, offsetof(pack_options_t, stripes), "FILE",
     "a file on another drive for its share of records; repeat it", 0, 0,
     NULL},
    {"dtype", 0, OPTION_TEXT, offsetof(pack_options_t, dtype), "NAME",
     "of the experts: f32, f16, bf16, int8, int8-group, int4, int4-zero, fp8 "
     "or mxfp4; their own is the default", 0, 0, NULL},
    {"force", 0, OPTION_FLAG, offsetof(pack_options_t, force), NULL,
     "overwrite an existing file", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_pack = {
    .name = "pack",
    .operands = "MODEL_DIR",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "writes a model's experts and dense weights as one store",
    .details =
        "A store holds one aligned, checksummed record per expert, so that a\n"
        "rank reads its own experts and nothing else. Values are kept bit for\n"
        "bit, unless --dtype gives the experts another type. 'coterie info\n"
        "STORE' says what is inside, and what a change of type lost. With\n"
        "--stripe, records take turns over several files, each on a drive of\n"
        "its own; they are never written over and must stay where they are.\n",
    .options = pack_specs,
    .options_size = sizeof(pack_options_t),
    .run = pack_run};

static int pack_run(const invocation_t *in)
{
    const pack_options_t *o = in->options;
    progress_t progress = {.what = "pack"};
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    const char **stripes = calloc(o->stripes.count + 1, sizeof(*stripes));
    coterie_model_t *model = NULL;
    coterie_status_t status = COTERIE_OK;

    if (o->output == NULL) {
        free(stripes);
        return command_refuse(in, "needs -o STORE");
    }
    if (stripes == NULL)
        status = failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    for (uint32_t i = 0; i < o->stripes.count && stripes != NULL; i++)
        stripes[i] = o->stripes.items[i].text;
    options.stripes = stripes;
    options.stripe_count = o->stripes.count;
    options.force = o->force;
    options.progress = pack_progress;
    options.progress_arg = &progress;
    if (status == COTERIE_OK && o->dtype != NULL)
        status = coterie_dtype_parse(o->dtype, &options.dtype);
    if (status == COTERIE_OK)
        status = coterie_model_open(in->operands[0], &model);
    if (status == COTERIE_OK)
        status = coterie_model_pack(model, o->output, &options);
    progress_end(&progress);
    coterie_model_close(model);
    free(stripes);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static void pack_progress(void *arg, uint64_t done, uint64_t total)
{
    char text[64];

    snprintf(text, sizeof(text), "%.0f of %.0f MB", 1e-6 * (double)done,
             1e-6 * (double)total);
    progress_show(arg, text);
}
