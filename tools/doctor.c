#include "config.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "tools/command.h"
#include "tools/doctor.h"
#include "tools/report.h"

enum {
    LINE_SIZE = 1024,
    LARGE_RECORD = 1 << 20, /* bytes; smaller ones are never read fast */
    DRIVES = 16             /* as many files as a store may have */
};

typedef struct doctor_options {
    const char *folder;
    bool json;
} doctor_options_t;

typedef struct findings {
    coterie_host_t host;
    doctor_rates_t rates;
    coterie_drive_t drives[DRIVES];
    uint32_t drive_count;
    json_t *advice; /* strings */
} findings_t;

#ifdef HAVE_MPI
enum { HAS_MPI = 1 };
#else
enum { HAS_MPI = 0 };
#endif

static int doctor_run(const invocation_t *in);
static coterie_status_t drives_examine(const invocation_t *in, findings_t *f);
static coterie_status_t store_examine(const char *path, findings_t *f);
static void advise_host(const coterie_host_t *host, json_t *advice);
static void advise_drives(const findings_t *f, json_t *advice);
static void advise_drive(const coterie_drive_t *drive, json_t *advice);
static void advise_apart(const findings_t *f, json_t *advice);
static void advise(json_t *advice, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static coterie_status_t report_json(const findings_t *f);
static json_t *host_json(const coterie_host_t *host);
static json_t *drives_json(const findings_t *f);
static coterie_status_t report_text(const findings_t *f);
static void host_print(const coterie_host_t *host);
static void drive_print(const coterie_drive_t *d);

static const option_spec_t doctor_specs[] = {
    {"dir", 0, OPTION_TEXT, offsetof(doctor_options_t, folder), "FOLDER",
     "without a store: try a temporary file there", 0, 0, NULL},
    {"json", 0, OPTION_FLAG, offsetof(doctor_options_t, json), NULL,
     "print one JSON object", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_doctor = {
    .name = "doctor",
    .operands = "[STORE]",
    .operands_least = 0,
    .operands_most = 1,
    .summary = "says what this machine can do, what is reached, what to change",
    .details =
        "Looks at cores, memory, huge pages, io_uring and the limits of the\n"
        "container, measures memory, kernels and the drive of each of STORE's\n"
        "files, and gives advice. Takes a few seconds, and two for each file,\n"
        "best while nothing else runs.\n",
    .options = doctor_specs,
    .options_size = sizeof(doctor_options_t),
    .run = doctor_run};

static int doctor_run(const invocation_t *in)
{
    const doctor_options_t *o = in->options;
    static findings_t f;
    coterie_status_t status;

    if (in->operand_count > 0 && o->folder != NULL)
        return command_refuse(in, "either a store or --dir, not both");
    f.advice = json_array();
    coterie_host_examine(&f.host);
    status = drives_examine(in, &f);
    if (status == COTERIE_OK)
        status = doctor_measure(f.host.cores, &f.rates);
    if (status == COTERIE_OK) {
        advise_host(&f.host, f.advice);
        advise_drives(&f, f.advice);
        status = o->json ? report_json(&f) : report_text(&f);
    }
    json_decref(f.advice);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t drives_examine(const invocation_t *in, findings_t *f)
{
    const doctor_options_t *o = in->options;

    if (in->operand_count > 0)
        return store_examine(in->operands[0], f);
    if (o->folder == NULL)
        return COTERIE_OK;
    f->drive_count = 1;
    return coterie_drive_examine_folder(o->folder, &f->drives[0]);
}

static coterie_status_t store_examine(const char *path, findings_t *f)
{
    coterie_model_t *model = NULL;
    coterie_status_t status = coterie_model_open(path, &model);
    uint32_t count;

    if (status != COTERIE_OK)
        return status;
    count = coterie_drive_count(model);
    count = count > 0 ? count : 1; /* a directory is refused in words */
    while (f->drive_count < count && f->drive_count < DRIVES &&
           status == COTERIE_OK) {
        status = coterie_drive_examine(model, f->drive_count,
                                       &f->drives[f->drive_count]);
        f->drive_count++;
    }
    coterie_model_close(model);
    return status;
}

static void advise_host(const coterie_host_t *host, json_t *advice)
{
    if (host->uring[0] != '\0')
        advise(advice,
               "allow io_uring (%s): sysctl kernel.io_uring_disabled=0, and in "
               "a container a seccomp profile that permits it",
               host->uring);
    if (strcmp(host->huge, "never") == 0 || host->huge[0] == '\0')
        advise(advice, "allow huge pages: echo madvise > "
                       "/sys/kernel/mm/transparent_hugepage/enabled, or "
                       "reserve some with sysctl vm.nr_hugepages");
    if (strcmp(host->huge_shared, "never") == 0 && host->huge_free == 0)
        advise(advice, "for several processes (MPI), allow huge pages that "
                       "they share: echo advise > "
                       "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    if (host->locked < host->memory && geteuid() != 0)
        advise(advice,
               "raise the limit of locked memory (ulimit -l, now %llu KiB) to "
               "the budget, so that reads need not pin their pages",
               (unsigned long long)host->locked / 1024);
    if (host->cores < host->cores_online)
        advise(advice,
               "plan with %u ranks: of %u cores this process gets no more%s",
               host->cores, host->cores_online,
               host->cpu_limit > 0 ? " (cpu.max of its control group)" : "");
    if (host->limit < host->memory)
        advise(advice,
               "keep --budget below %.1f GB: what the container has left of "
               "its %.1f GB",
               1e-9 * (double)(host->limit - host->limit_used),
               1e-9 * (double)host->limit);
    if (!HAS_MPI)
        advise(advice, "build with MPI to serve with ranks on several "
                       "machines");
}

static void advise_drives(const findings_t *f, json_t *advice)
{
    if (f->drive_count == 0)
        advise(advice, "name a STORE, or a folder with --dir, to have its "
                       "drive examined");
    for (uint32_t i = 0; i < f->drive_count; i++)
        advise_drive(&f->drives[i], advice);
    advise_apart(f, advice);
}

static void advise_drive(const coterie_drive_t *drive, json_t *advice)
{
    if (!drive->direct)
        advise(advice,
               "keep stores on a local drive with ext4 or xfs: %s is where "
               "the file system refuses direct reads",
               drive->path);
    if (drive->record_size >= LARGE_RECORD &&
        drive->reader_gbs < 0.8 * drive->ceiling_gbs)
        advise(advice,
               "look for what else uses drive or cores: records of %s are read "
               "at %.0f %% of what the drive gives",
               drive->path, 100 * drive->reader_gbs / drive->ceiling_gbs);
}

/* Stripes of one drive wait for each other. */
static void advise_apart(const findings_t *f, json_t *advice)
{
    for (uint32_t i = 1; i < f->drive_count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (f->drives[i].device == f->drives[j].device) {
                advise(advice,
                       "put %s on a drive of its own: it shares one with %s",
                       f->drives[i].path, f->drives[j].path);
                break;
            }
}

static void advise(json_t *advice, const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    json_array_append_new(advice, json_string(line));
}

static coterie_status_t report_json(const findings_t *f)
{
    return json_print(json_pack(
        "{s:s, s:o, s:{s:f, s:f}, s:{s:s, s:f}, s:o, s:b, s:b, s:O}",
        "version", coterie_version(), "host", host_json(&f->host),
        "memory_gbs", "one_thread", f->rates.memory_one, "all_cores",
        f->rates.memory_all, "kernels", "isa", coterie_kernels_isa(),
        "one_thread_gbs", f->rates.kernels_one, "drives", drives_json(f), "mpi",
        HAS_MPI, "gpu", 0, "advice", f->advice));
}

static json_t *host_json(const coterie_host_t *host)
{
    return json_pack(
        "{s:i, s:i, s:i, s:f, s:i, s:I, s:I, s:o, s:I, s:o, s:I, s:s, s:s, "
        "s:b, s:s}",
        "cores", (int)host->cores, "cores_online", (int)host->cores_online,
        "cores_allowed", (int)host->cores_allowed, "cpu_limit",
        host->cpu_limit, "numa_nodes", (int)host->numa_nodes, "memory",
        (json_int_t)host->memory, "memory_available",
        (json_int_t)host->available, "memory_limit", bytes_json(host->limit),
        "memory_limit_used", (json_int_t)host->limit_used, "locked_limit",
        bytes_json(host->locked), "huge_pages_free",
        (json_int_t)host->huge_free, "transparent_huge_pages", host->huge,
        "shared_huge_pages", host->huge_shared,
        "io_uring", host->uring[0] == '\0', "io_uring_refusal", host->uring);
}

static json_t *drives_json(const findings_t *f)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < f->drive_count; i++) {
        const coterie_drive_t *d = &f->drives[i];

        json_array_append_new(
            list,
            json_pack("{s:s, s:I, s:b, s:s, s:f, s:I, s:i, s:I, s:f, s:f}",
                      "path", d->path, "device", (json_int_t)d->device,
                      "direct", (int)d->direct, "reading", d->reading,
                      "ceiling_gbs", d->ceiling_gbs, "ceiling_request",
                      (json_int_t)d->ceiling_request, "ceiling_depth",
                      (int)d->ceiling_depth, "record_size",
                      (json_int_t)d->record_size, "reader_gbs",
                      d->reader_gbs, "wait_s", d->wait_s));
    }
    return list;
}

static coterie_status_t report_text(const findings_t *f)
{
    const char *line;
    size_t i;
    json_t *entry;

    host_print(&f->host);
    printf("memory     %.1f GB/s by one thread, %.1f by all cores\n"
           "kernels    %s: %.1f GB/s of bf16 weights by one thread, %.0f %% "
           "of memory's\n",
           f->rates.memory_one, f->rates.memory_all, coterie_kernels_isa(),
           f->rates.kernels_one,
           100 * f->rates.kernels_one / f->rates.memory_one);
    for (uint32_t d = 0; d < f->drive_count; d++) {
        if (f->drive_count > 1)
            printf("file       %s\n", f->drives[d].path);
        drive_print(&f->drives[d]);
    }
    printf("mpi        %s\n"
           "gpu        none: this build computes on processors\n",
           HAS_MPI ? "built in" : "not built in");
    json_array_foreach(f->advice, i, entry) {
        line = json_string_value(entry);
        printf("%s%s\n", i == 0 ? "\nto do      " : "           ", line);
    }
    return COTERIE_OK;
}

static void host_print(const coterie_host_t *host)
{
    printf("cores      %u of %u, on %u NUMA node%s\n"
           "memory     %.1f of %.1f GB available\n",
           host->cores, host->cores_online, host->numa_nodes,
           host->numa_nodes == 1 ? "" : "s", 1e-9 * (double)host->available,
           1e-9 * (double)host->memory);
    if (host->cpu_limit > 0)
        printf("container  limited to %.1f cores\n", host->cpu_limit);
    if (host->limit != UINT64_MAX)
        printf("container  limited to %.1f GB, %.1f of them used\n",
               1e-9 * (double)host->limit, 1e-9 * (double)host->limit_used);
    printf("huge pages %.1f GB reserved and free; transparent: %s, "
           "shared: %s\n"
           "io_uring   %s\n",
           1e-9 * (double)host->huge_free,
           host->huge[0] != '\0' ? host->huge : "none",
           host->huge_shared[0] != '\0' ? host->huge_shared : "none",
           host->uring[0] != '\0' ? host->uring : "works");
}

static void drive_print(const coterie_drive_t *d)
{
    printf("drive      %.2f GB/s at best, bare (%u requests of %.1f MiB)\n"
           "reader     %.2f GB/s, %.0f %% of that; a MiB takes %.2f ms; %s\n",
           d->ceiling_gbs, d->ceiling_depth,
           (double)d->ceiling_request / (1 << 20), d->reader_gbs,
           100 * d->reader_gbs / d->ceiling_gbs, 1e3 * d->wait_s, d->reading);
}
