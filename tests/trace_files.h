#ifndef COTERIE_TESTS_TRACE_FILES_H
#define COTERIE_TESTS_TRACE_FILES_H
/* Small array and trace files that tests make for themselves. */
#include <coterie/trace.h>

#include "base/npz.h"

/* Makes an empty folder for the running test; files_remove deletes it. */
void files_make(void);
void files_remove(void);

/* The path of `name` in the folder; valid for the next few calls. */
const char *file_path(const char *name);

/* How many files the folder holds. */
int files_count(void);

void text_put(const char *name, const char *text);

/* An .npy of version 1.0 whose header holds exactly this dictionary. */
void npy_put(const char *name, const char *dictionary, const void *data,
             size_t size);

/* An .npy of ours: `type` as in "u2", shape ended by a 0. */
void array_put(const char *name, const char *type, const uint64_t *shape,
               const void *data);

/* An .npz of deflated entries, as numpy.savez_compressed makes them. */
void npz_put(const char *name, const coterie_npz_entry_t *entries,
             size_t count);

/* Reads a trace that must be good. */
coterie_trace_t *trace_get(const char *name);

/* Expects the read to fail with this status, and a line that holds `part`. */
void expect_unread(const char *name, coterie_status_t status,
                   const char *part);

#endif
