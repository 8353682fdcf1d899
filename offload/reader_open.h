#ifndef COTERIE_OFFLOAD_READER_OPEN_H
#define COTERIE_OFFLOAD_READER_OPEN_H
/* Finds the best way of reading that this system allows. */
#include <coterie/tiers.h>

#include "experts/datafile.h"
#include "offload/reader_io.h"

/* Opens the same file once more, past the page cache where that works.
 * @return ERR_MISMATCH if another file has the path by now */
coterie_status_t coterie_reader_file_open(const coterie_datafile_t *file,
                                          int *descriptor_p, bool *direct_p);

/* io_uring, polling if it can, or threads where it is refused. */
coterie_status_t coterie_reader_io_open(const coterie_io_setup_t *setup,
                                        bool direct, coterie_polling_t polling,
                                        coterie_io_t **io_p);

/* One line on stderr, once per process: reads are slower than could be. */
void coterie_reader_announce(const char *why);

#endif
