#include "config.h"

#include <stdio.h>

#include "tools/playing.h"

uint64_t playing_first(const coterie_trace_view_t *view, double share)
{
    uint64_t first =
        (uint64_t)((1 - share) * (double)view->token_count + 0.5);

    return first < view->token_count ? first : view->token_count - 1;
}

void playing_progress(void *arg, uint64_t done, uint64_t total)
{
    char text[64];

    snprintf(text, sizeof(text), "%llu of %llu tokens",
             (unsigned long long)done, (unsigned long long)total);
    progress_show(arg, text);
}
