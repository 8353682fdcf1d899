#ifndef COTERIE_EXPERTS_STRIPES_H
#define COTERIE_EXPERTS_STRIPES_H
/* Files on other drives that hold some of a store's records. Each begins with a
 * block that names its store by the checksum of that one's index, so that no
 * file of another store is taken for it. */
#include "base/file.h"
#include "experts/datafile.h"

/* Leaves room for the first block.
 * @return ERR_EXISTS: a stripe is never written over, since a store may need
 *         it until a new one is complete */
coterie_status_t coterie_stripe_begin(const char *path,
                                      coterie_output_t *output);

/* Writes the first block of a store's file number `ordinal`, of `size` bytes.
 */
coterie_status_t coterie_stripe_end(coterie_output_t *output, uint32_t ordinal,
                                    uint64_t size, uint64_t index_hash);

/* What a store's index calls a stripe: its name, beside the store, or else its
 * whole path. NULL if there is no such folder; free it. */
char *coterie_stripe_name(const char *store, const char *path);

/* Opens a stripe by the name in the index and checks that it is this store's.
 * @return ERR_NOT_FOUND, ERR_IO, ERR_FORMAT, ERR_CORRUPT, ERR_MISMATCH: a line
 *         that names it */
coterie_status_t coterie_stripe_open(const char *store, const char *name,
                                     uint32_t ordinal, uint64_t index_hash,
                                     coterie_datafile_t *file_p);

#endif
