#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/command.h"
#include "tools/report.h"

static const double quiet_s = 1.0;   /* nothing shorter shows progress */
static const double between_s = 0.2; /* shows nearer than this are skipped */

/* Every count that reports give by its name. */
#define COUNTS_MAP(X)                                                       \
    X(steps) X(tokens) X(alltoalls) X(returns) X(node_alltoalls)            \
    X(kv_gathers) X(fixup_sends) X(copies_dispatch) X(copies_return)        \
    X(copies_forward) X(copies_fixup) X(copies_network) X(copies_kv)        \
    X(payload_bytes) X(wire_bytes) X(kv_bytes) X(messages) X(empty_messages)

static size_t utf8_length(const unsigned char *bytes, size_t size);

double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_show(progress_t *progress, const char *text)
{
    double now = seconds_now();

    if (progress->started_s == 0)
        progress->started_s = now;
    if (now - progress->started_s < quiet_s ||
        now - progress->shown_s < between_s || !isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r\033[Kcoterie %s: %s", progress->what, text);
    fflush(stderr);
    progress->shown_s = now;
}

void progress_end(progress_t *progress)
{
    if (progress->shown_s != 0)
        fprintf(stderr, "\r\033[K");
}

coterie_status_t json_print(json_t *object)
{
    size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION(10);
    int failed = object == NULL || json_dumpf(object, stdout, flags) != 0 ||
                 putchar('\n') == EOF || fflush(stdout) != 0;

    json_decref(object);
    return failed ? failure(COTERIE_ERR_IO, "standard output: not written")
                  : COTERIE_OK;
}

json_t *json_bytes(const char *bytes, size_t size)
{
    static const char replacement[] = "\xef\xbf\xbd";
    char *text = malloc(3 * size + 1);
    size_t length = 0;
    json_t *string;

    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < size;) {
        size_t n = utf8_length((const unsigned char *)bytes + i, size - i);
        memcpy(text + length, n == 0 ? replacement : bytes + i,
               n == 0 ? 3 : n);
        length += n == 0 ? 3 : n;
        i += n == 0 ? 1 : n;
    }
    string = json_stringn(text, length);
    free(text);
    return string;
}

json_t *bytes_json(uint64_t bytes)
{
    return bytes == UINT64_MAX ? json_null()
                               : json_integer((json_int_t)bytes);
}

/* Bytes of the character that begins here; 0 if none does. Table 3-7 of the
 * Unicode standard: the second byte's range depends on the first. */
static size_t utf8_length(const unsigned char *bytes, size_t size)
{
    unsigned char first = bytes[0], low = 0x80, high = 0xbf;
    size_t n;

    if (first < 0x80)
        return first != 0; /* readers of JSON may refuse a zero */
    if (first < 0xc2 || first > 0xf4)
        return 0;
    n = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first == 0xe0)
        low = 0xa0;
    if (first == 0xed)
        high = 0x9f;
    if (first == 0xf0)
        low = 0x90;
    if (first == 0xf4)
        high = 0x8f;
    if (size < n || bytes[1] < low || bytes[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (bytes[i] < 0x80 || bytes[i] > 0xbf)
            return 0;
    return n;
}

/* Fix-ups are left out: only the rows concerned wait for them. */
double counts_steps_per_layer(const coterie_counts_t *counts, uint32_t layers)
{
    double occasions = (double)counts->steps * layers;
    uint64_t sequential =
        counts->alltoalls + counts->returns + counts->node_alltoalls;

    return occasions > 0 ? (double)sequential / occasions : 0;
}

double counts_per_token(const coterie_counts_t *counts, uint64_t total,
                        uint32_t layers)
{
    double rows = (double)counts->tokens * layers;

    return rows > 0 ? (double)total / rows : 0;
}

json_t *counts_json(const coterie_counts_t *counts, uint32_t layers)
{
    json_t *object = json_pack(
        "{s:f, s:f, s:f, s:f, s:f}", "communications_per_layer",
        counts_steps_per_layer(counts, layers), "copies_per_token_layer",
        counts_per_token(counts, coterie_counts_copies(counts), layers),
        "payload_bytes_per_token_layer",
        counts_per_token(counts, counts->payload_bytes, layers),
        "wire_bytes_per_token_layer",
        counts_per_token(counts, counts->wire_bytes, layers),
        "kv_bytes_per_token_layer",
        counts_per_token(counts, counts->kv_bytes, layers));

#define X(field)                        \
    json_object_set_new(object, #field, \
                        json_integer((json_int_t)counts->field));
    COUNTS_MAP(X)
#undef X
    return object;
}

void counts_print(FILE *stream, const char *phase,
                  const coterie_counts_t *counts, uint32_t layers)
{
    fprintf(stream,
            "%s: %llu tokens in %llu steps\n"
            "  communications per layer, in sequence %8.2f\n"
            "  copies per token and layer            %8.2f\n"
            "  bytes per token and layer             %8.0f\n"
            "  K/V bytes per token and layer         %8.0f\n"
            "  predictions mended, messages          %8llu\n",
            phase, (unsigned long long)counts->tokens,
            (unsigned long long)counts->steps,
            counts_steps_per_layer(counts, layers),
            counts_per_token(counts, coterie_counts_copies(counts), layers),
            counts_per_token(counts, counts->wire_bytes, layers),
            counts_per_token(counts, counts->kv_bytes, layers),
            (unsigned long long)counts->fixup_sends);
}
