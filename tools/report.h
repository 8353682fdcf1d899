#ifndef COTERIE_TOOLS_REPORT_H
#define COTERIE_TOOLS_REPORT_H
/* What subcommands print: progress while they work, figures at the end. */
#include <stdio.h>

#include <jansson.h>

#include <coterie/coterie.h>

/* A line on a terminal about anything that takes longer than a second; zero
 * all but `what` before the first show. Elsewhere nothing is printed. */
typedef struct progress {
    const char *what;
    double started_s, shown_s;
} progress_t;

/* `text` replaces the line before it; not more often than a reader can see. */
void progress_show(progress_t *progress, const char *text);

/* Clears the line. */
void progress_end(progress_t *progress);

/* Seconds on a clock that only goes forward. */
double seconds_now(void);

/* Prints an object on standard output and frees it.
 * @return ERR_IO if it could not be written */
coterie_status_t json_print(json_t *object);

/* A string of any bytes: zeroes and what is no UTF-8 become U+FFFD. */
json_t *json_bytes(const char *bytes, size_t size);

/* A limit; UINT64_MAX, which is none, becomes null. */
json_t *bytes_json(uint64_t bytes);

/* Counts of one phase as an object: every field of coterie_counts_t and what
 * follows from them per token and layer. */
json_t *counts_json(const coterie_counts_t *counts, uint32_t layers);

/* The same, the few that matter, as lines of a table. */
void counts_print(FILE *stream, const char *phase,
                  const coterie_counts_t *counts, uint32_t layers);

/* Of a phase: exchanges and returns that wait for one another, per layer. */
double counts_steps_per_layer(const coterie_counts_t *counts, uint32_t layers);

/* `total` per token and layer. */
double counts_per_token(const coterie_counts_t *counts, uint64_t total,
                        uint32_t layers);

#endif
