#ifndef COTERIE_TOOLS_PLAYING_H
#define COTERIE_TOOLS_PLAYING_H
/* What the subcommands that play a trace token by token have in common. */
#include "tools/report.h"

/* The first token of the trace's last `share`; at least one token is left. */
uint64_t playing_first(const coterie_trace_view_t *view, double share);

/* A coterie_tokens_fn; arg is a progress_t. */
void playing_progress(void *arg, uint64_t done, uint64_t total);

#endif
