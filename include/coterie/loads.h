#ifndef COTERIE_LOADS_H
#define COTERIE_LOADS_H
/** @file
 * Loads alone: how often each expert was chosen, without the order that a
 * trace has. Loads never change once made, so reading needs no lock. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_loads coterie_loads_t;

/** What loads hold; filled by coterie_loads_view, borrowed from the loads.
 * Windows are counts of different times (steps, requests), the earliest
 * first; sums alone are one window. */
typedef struct coterie_loads_view {
    uint64_t window_count;
    uint32_t layer_count;  /**< MoE layers */
    uint32_t expert_count; /**< per layer */
    const double *load;    /**< [window, layer, expert]: finite, 0 or more */
} coterie_loads_view_t;

/** Copies the array (as in the view).
 * @return ERR_INVALID with the first rule that is broken, and where */
COTERIE_API coterie_status_t coterie_loads_create(
    const coterie_loads_view_t *arrays, coterie_loads_t **loads_p);

/** Reads counts, told apart by content: JSON or `.npy` of [layers, experts] or
 * [windows, layers, experts] (SGLang's `logical_count`, with or without that
 * key; counts by request), or TensorRT-LLM's safetensors, a file or a folder
 * of its ranks' files. See doc/formats.md.
 *
 * @return ERR_FORMAT, ERR_IO, with a line that names the file and the place */
COTERIE_API coterie_status_t coterie_loads_read(const char *path,
                                                coterie_loads_t **loads_p);

COTERIE_API void coterie_loads_view(const coterie_loads_t *loads,
                                    coterie_loads_view_t *view);

/** Accepts NULL. */
COTERIE_API void coterie_loads_destroy(coterie_loads_t *loads);

#ifdef __cplusplus
}
#endif
#endif
