#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/command.h"
#include "tools/report.h"
#include "tools/weights.h"

typedef struct info_options {
    uint32_t ranks;
    bool json, devices;
} info_options_t;

/* What a file is, by how it begins. */
typedef enum file_kind { KIND_MODEL, KIND_TRACE, KIND_PLACEMENT } file_kind_t;

#ifdef HAVE_GLPK
enum { HAS_GLPK = 1 };
#else
enum { HAS_GLPK = 0 };
#endif
#ifdef HAVE_MPI
enum { HAS_MPI = 1 };
#else
enum { HAS_MPI = 0 };
#endif
#ifdef HAVE_HWLOC
enum { HAS_HWLOC = 1 };
#else
enum { HAS_HWLOC = 0 };
#endif

#define NCCL_FORMAT "%u.%u.%u"
#define NCCL_PARTS(version) \
    (version) / 10000, (version) / 100 % 100, (version) % 100

static int info_run(const invocation_t *in);
static coterie_status_t build_report(const info_options_t *o);
static coterie_status_t devices_report(const info_options_t *o);
static json_t *nccl_object(void);
static void nccl_print(void);
static coterie_status_t kind_find(const char *path, file_kind_t *kind_p);
static coterie_status_t model_report(const info_options_t *o,
                                     const char *path);
static json_t *format_object(const coterie_expert_format_t *format);
static coterie_status_t trace_report(const info_options_t *o,
                                     const char *path);
static coterie_status_t placement_report(const info_options_t *o,
                                         const char *path);

static const option_spec_t info_specs[] = {
    {"ranks", 'r', OPTION_COUNT, offsetof(info_options_t, ranks), "R",
     "for placements that do not say it", 1, 4096, NULL},
    {"devices", 0, OPTION_FLAG, offsetof(info_options_t, devices), NULL,
     "list this machine's GPUs and NCCL, or say why there are none", 0, 0,
     NULL},
    {"json", 0, OPTION_FLAG, offsetof(info_options_t, json), NULL,
     "print one JSON object", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_info = {
    .name = "info",
    .operands = "[FILE]",
    .operands_least = 0,
    .operands_most = 1,
    .summary = "says what a file is, or what this build can do",
    .details = "FILE is a model's directory, a store, a trace or a "
               "placement.\n",
    .options = info_specs,
    .options_size = sizeof(info_options_t),
    .run = info_run};

static int info_run(const invocation_t *in)
{
    const info_options_t *o = in->options;
    const char *path = in->operands[0];
    file_kind_t kind = KIND_MODEL;
    coterie_status_t status;

    if (o->devices && in->operand_count > 0)
        return command_refuse(in, "--devices goes without a FILE");
    if (in->operand_count == 0) {
        status = o->devices ? devices_report(o) : build_report(o);
        return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
    }
    status = kind_find(path, &kind);
    if (status == COTERIE_OK && kind == KIND_MODEL)
        status = model_report(o, path);
    else if (status == COTERIE_OK && kind == KIND_TRACE)
        status = trace_report(o, path);
    else if (status == COTERIE_OK)
        status = placement_report(o, path);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t build_report(const info_options_t *o)
{
    if (o->json)
        return json_print(json_pack(
            "{s:s, s:s, s:b, s:b, s:b}", "version", coterie_version(),
            "kernels", coterie_kernels_isa(), "glpk", HAS_GLPK, "mpi", HAS_MPI,
            "hwloc", HAS_HWLOC));
    printf("coterie %s\nkernels    %s\nplace      %s\ntransports threads%s\n"
           "topologies JSON%s\nthreads    %s\n",
           coterie_version(), coterie_kernels_isa(),
           HAS_GLPK ? "GLPK" : "none: built without GLPK",
           HAS_MPI ? ", mpi" : "; built without MPI",
           HAS_HWLOC ? ", hwloc" : "; built without hwloc",
           HAS_HWLOC ? "kept on cores of their own"
                     : "left to the system: built without hwloc");
    return COTERIE_OK;
}

static coterie_status_t devices_report(const info_options_t *o)
{
    const uint32_t count = coterie_device_count();
    coterie_status_t status = COTERIE_OK;
    const char *const products[] = {"mma.sync", "wgmma"};
    json_t *list = json_array(), *reason;

    reason = json_string(count == 0 ? coterie_last_error() : "");
    if (count == 0 && !o->json)
        printf("%s\n", coterie_last_error());
    for (uint32_t i = 0; status == COTERIE_OK && i < count; i++) {
        coterie_device_about_t about = {.size = sizeof(about)};

        status = coterie_device_describe(i, &about);
        if (status != COTERIE_OK)
            break;
        if (!o->json)
            printf("cuda:%u  %s, %s, %u multiprocessors, %s, %.1f of %.1f "
                   "GB free\n",
                   i, about.name, about.architecture, about.processors,
                   products[about.wgmma == 1],
                   1e-9 * (double)about.memory_free,
                   1e-9 * (double)about.memory);
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:i, s:s, s:I, s:I}", "name", about.name,
                      "architecture", about.architecture, "multiprocessors",
                      (int)about.processors, "products",
                      products[about.wgmma == 1], "memory",
                      (json_int_t)about.memory, "memory_free",
                      (json_int_t)about.memory_free));
    }
    if (status == COTERIE_OK && o->json)
        return json_print(json_pack("{s:o, s:o, s:o}", "devices", list,
                                    "reason", reason, "nccl", nccl_object()));
    if (status == COTERIE_OK)
        nccl_print();
    json_decref(list);
    json_decref(reason);
    return status;
}

/* Its version, or null. */
static json_t *nccl_object(void)
{
    uint32_t version;

    return coterie_nccl_version(&version) == COTERIE_OK
               ? json_sprintf(NCCL_FORMAT, NCCL_PARTS(version))
               : json_null();
}

static void nccl_print(void)
{
    uint32_t version;

    if (coterie_nccl_version(&version) == COTERIE_OK)
        printf("NCCL " NCCL_FORMAT "\n", NCCL_PARTS(version));
    else
        printf("%s\n", coterie_last_error());
}

/* Only enough to choose who reads it: that one checks it. */
static coterie_status_t kind_find(const char *path, file_kind_t *kind_p)
{
    char begin[8] = "";
    struct stat about;
    FILE *stream;

    if (stat(path, &about) != 0)
        return failure(COTERIE_ERR_NOT_FOUND, "%s: %s", path,
                       strerror(errno));
    *kind_p = KIND_MODEL;
    if (S_ISDIR(about.st_mode))
        return COTERIE_OK;
    stream = fopen(path, "rb");
    if (stream == NULL)
        return failure(COTERIE_ERR_IO, "%s: %s", path, strerror(errno));
    if (fread(begin, 1, sizeof(begin) - 1, stream) == 0)
        begin[0] = '\0';
    fclose(stream);
    if (strncmp(begin, "PK", 2) == 0 || strncmp(begin, "\x93NUMPY", 6) == 0 ||
        strncmp(begin, "layer,", 6) == 0)
        *kind_p = KIND_TRACE;
    else if (strchr("{[", begin[0]) != NULL || begin[0] == '\0' ||
             strncmp(begin, "Expert,", 7) == 0 ||
             strncmp(begin, "num_slo", 7) == 0 ||
             strncmp(begin, "initial", 7) == 0)
        *kind_p = KIND_PLACEMENT;
    return COTERIE_OK;
}

static coterie_status_t model_report(const info_options_t *o, const char *path)
{
    coterie_model_config_t c = {.size = sizeof(c)};
    coterie_expert_format_t f = {.size = sizeof(f)};
    coterie_model_t *model = NULL;
    coterie_status_t status = coterie_model_open(path, &model);
    char text[320];

    if (status != COTERIE_OK)
        return status;
    coterie_model_config(model, &c);
    coterie_model_expert_format(model, &f);
    coterie_model_describe(model, text, sizeof(text));
    coterie_model_close(model);
    if (o->json)
        return json_print(json_pack(
            "{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o}", "kind",
            "model", "description", text, "layers", (int)c.layers,
            "moe_layers", (int)c.moe_layers, "experts", (int)c.experts, "k",
            (int)c.k, "hidden", (int)c.hidden, "vocab", (int)c.vocab,
            "kv_row_size", (int)kv_row_size(&c), "records",
            format_object(&f)));
    printf("%s\nrecords of %llu bytes, in panels\n", text,
           (unsigned long long)f.record_size);
    return COTERIE_OK;
}

static json_t *format_object(const coterie_expert_format_t *format)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:I}", "dtype", coterie_dtype_name(format->dtype),
        "layout", "panels", "size", (json_int_t)format->record_size);

    if (format->packed_from != 0) {
        json_object_set_new(
            object, "packed_from",
            json_string(coterie_dtype_name(format->packed_from)));
        json_object_set_new(object, "error",
                            json_real((double)format->error));
    }
    return object;
}

static coterie_status_t trace_report(const info_options_t *o, const char *path)
{
    coterie_trace_t *trace = NULL;
    coterie_trace_view_t view;
    coterie_status_t status = coterie_trace_read(path, 0, &trace);

    if (status != COTERIE_OK)
        return status;
    coterie_trace_view(trace, &view);
    if (o->json)
        status = json_print(json_pack(
            "{s:s, s:I, s:I, s:i, s:i, s:i, s:i, s:b}", "kind", "trace",
            "tokens", (json_int_t)view.token_count, "sequences",
            (json_int_t)view.sequence_count, "layers", (int)view.layer_count,
            "experts", (int)view.expert_count, "k", (int)view.k,
            "predicted_k", (int)view.predicted_k, "steps",
            view.step != NULL));
    else
        printf("trace: %llu tokens in %llu sequences, %u layers of %u "
               "experts, top-%u%s\n",
               (unsigned long long)view.token_count,
               (unsigned long long)view.sequence_count, view.layer_count,
               view.expert_count, view.k,
               view.predicted != NULL ? ", with predictions" : "");
    coterie_trace_destroy(trace);
    return status;
}

static coterie_status_t placement_report(const info_options_t *o,
                                         const char *path)
{
    coterie_placement_t *placement = NULL;
    coterie_placement_options_t view;
    coterie_status_t status =
        coterie_placement_read(path, o->ranks, &placement);

    if (status != COTERIE_OK)
        return status;
    coterie_placement_view(placement, &view);
    coterie_placement_destroy(placement);
    if (o->json)
        return json_print(json_pack(
            "{s:s, s:i, s:i, s:i, s:i, s:i}", "kind", "placement", "layers",
            (int)view.layer_count, "experts", (int)view.expert_count, "ranks",
            (int)view.rank_count, "nodes", (int)view.node_count, "slots",
            (int)view.slot_count));
    printf("placement: %u layers of %u experts in %u slots on %u ranks, %u "
           "node%s\n",
           view.layer_count, view.expert_count, view.slot_count,
           view.rank_count, view.node_count, view.node_count > 1 ? "s" : "");
    return COTERIE_OK;
}
