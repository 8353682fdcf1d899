#ifndef COTERIE_EXPERTS_SAFETENSORS_H
#define COTERIE_EXPERTS_SAFETENSORS_H
/* Reader of safetensors headers. */
#include "experts/datafile.h"
#include "experts/tensor.h"

/* Appends the file's tensors, checked: shapes match sizes, and together they
 * fill the file exactly. `ordinal` becomes each tensor's `file`. Data need not
 * be aligned in the file; whoever reads them copies. */
coterie_status_t coterie_safetensors_read(const coterie_datafile_t *file,
                                          uint32_t ordinal,
                                          coterie_tensors_t *tensors);

#endif
