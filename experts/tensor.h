#ifndef COTERIE_EXPERTS_TENSOR_H
#define COTERIE_EXPERTS_TENSOR_H
/* The tensors that a file or a set of files holds: names, shapes, places. */
#include <jansson.h>

#include <coterie/status.h>

enum { COTERIE_TENSOR_RANK_MAX = 4, COTERIE_TENSOR_SHAPE_TEXT = 96 };

/* Beside coterie_dtype_t: bytes, which are codes of some format. */
enum { COTERIE_TENSOR_BYTES = 0x100 };

/* What the model's architecture makes of a tensor. */
typedef enum coterie_tensor_role {
    COTERIE_TENSOR_UNKNOWN = 0,
    COTERIE_TENSOR_DENSE,
    COTERIE_TENSOR_EXPERT,
    COTERIE_TENSOR_IGNORED /* a computed buffer that was saved as well */
} coterie_tensor_role_t;

typedef struct coterie_tensor {
    char *name;
    uint32_t dtype; /* coterie_dtype_t, or COTERIE_TENSOR_BYTES */
    uint32_t role;  /* coterie_tensor_role_t */
    uint32_t rank;
    uint32_t file; /* ordinal of the shard */
    uint64_t shape[COTERIE_TENSOR_RANK_MAX];
    uint64_t offset, size;  /* bytes, in its file */
    uint64_t first_hash;    /* in an expert store only */
} coterie_tensor_t;

typedef struct coterie_tensors {
    coterie_tensor_t *items;
    size_t count, room;
} coterie_tensors_t;

/* As safetensors spells it: "F32", "F16", "BF16", "F8_E4M3", "U8". */
const char *coterie_tensor_dtype_name(uint32_t dtype);

/* Bytes of one element of a tensor. */
uint32_t coterie_tensor_element(uint32_t dtype);

/* Reads "dtype" and "shape" of a JSON object into tensor, and the size they
 * make; tensor->name names it in errors about path. */
coterie_status_t coterie_tensor_parse(const json_t *entry, const char *path,
                                      coterie_tensor_t *tensor);

/* "[3, 4]" for messages, at most COTERIE_TENSOR_SHAPE_TEXT bytes. */
void coterie_tensor_shape_text(uint32_t rank, const uint64_t *shape,
                               char *text);

/* Appends a copy that has a name of its own. */
coterie_status_t coterie_tensors_add(coterie_tensors_t *tensors,
                                     const coterie_tensor_t *tensor);

/* Sorts by name, which finding needs. @return ERR_FORMAT if a name is there
 * twice */
coterie_status_t coterie_tensors_sort(coterie_tensors_t *tensors,
                                      const char *path);

/* NULL if there is none. */
coterie_tensor_t *coterie_tensors_find(const coterie_tensors_t *tensors,
                                       const char *name);

void coterie_tensors_clear(coterie_tensors_t *tensors);

#endif
