#ifndef COTERIE_TESTS_FAULT_IO_H
#define COTERIE_TESTS_FAULT_IO_H
/* A way of reading files that goes wrong on demand. Tests run in processes of
 * their own, so there is one of everything. */
#include "offload/reader_io.h"

typedef enum fault_kind {
    FAULT_NONE,
    FAULT_SHORT,  /* half of what was asked for */
    FAULT_EIO,
    FAULT_WRONG,  /* one bit is flipped */
    FAULT_SLOW,   /* takes a hundred times as long */
    FAULT_REFUSED /* takes no more pieces */
} fault_kind_t;

enum { FAULT_LOG = 64, FAULT_ALWAYS = 1 << 30 };

/* Chunks first .. first + count - 1, as submitted, suffer it. */
void fault_plan(fault_kind_t kind, uint32_t first, uint32_t count);

/* From now on pieces only arrive when let: count more of them. */
void fault_hold(void);
void fault_let(uint32_t count);

/* Waits until count pieces were submitted. */
void fault_await(uint32_t count);

uint32_t fault_submitted(void);
uint64_t fault_offset(uint32_t submission);

extern const coterie_io_ops_t fault_io;

#endif
