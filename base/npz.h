#ifndef COTERIE_BASE_NPZ_H
#define COTERIE_BASE_NPZ_H
/* NumPy's .npz: .npy arrays in a zip archive, stored or deflated. */
#include "base/npy.h"

typedef struct coterie_npz coterie_npz_t;

coterie_status_t coterie_npz_open(const char *path, coterie_npz_t **npz_p);

/* Whether the archive holds `key` (its entry is `key`.npy). */
int coterie_npz_has(const coterie_npz_t *npz, const char *key);

/* Reads one array, which then owns its memory.
 * @return ERR_NOT_FOUND if the archive has no such key */
coterie_status_t coterie_npz_read(coterie_npz_t *npz, const char *key,
                                  coterie_npy_t *npy);

/* Accepts NULL. */
void coterie_npz_close(coterie_npz_t *npz);

typedef struct coterie_npz_entry {
    const char *key;
    coterie_npy_t array;
} coterie_npz_entry_t;

/* Writes a whole archive or nothing; the same arrays give the same bytes.
 * @return ERR_EXISTS if path exists and force is 0 */
coterie_status_t coterie_npz_write(const char *path, int force,
                                   const coterie_npz_entry_t *entries,
                                   size_t count);

#endif
