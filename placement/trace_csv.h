#ifndef COTERIE_PLACEMENT_TRACE_CSV_H
#define COTERIE_PLACEMENT_TRACE_CSV_H
/* llama.cpp's expert log: one `layer,expert` line per chosen expert, token by
 * token, layer by layer. */
#include <coterie/trace.h>

coterie_status_t coterie_trace_read_csv(const char *path,
                                        uint32_t expert_count,
                                        coterie_trace_t **trace_p);

#endif
