#ifndef COTERIE_BASE_OPTIONS_H
#define COTERIE_BASE_OPTIONS_H
/* Options structs of any age. Exported for our sister libraries only. */
#include <coterie/status.h>

/* Copies a caller's options into ours. Both begin with their size; a shorter
 * (older) struct reads as zero past its end, a longer (newer) one is refused
 * unless what we do not know was left zero. `what` names it in the error. */
COTERIE_API coterie_status_t coterie_options_read(const void *in, void *out,
                                                  size_t out_size,
                                                  const char *what);

#endif
