#ifndef COTERIE_PLACEMENT_LOADS_READ_H
#define COTERIE_PLACEMENT_LOADS_READ_H
/* Readers of loads, by format. */
#include <coterie/loads.h>

/* A folder of TensorRT-LLM's files, or one of them. */
coterie_status_t coterie_loads_read_tensors(const char *path, int is_folder,
                                            coterie_loads_t **loads_p);

#endif
