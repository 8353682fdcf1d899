#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/draw.h"
#include "tests/gpu_data.h"

void must(coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "%s\n", coterie_last_error());
    abort();
}

/* Poisoned: what a kernel leaves unwritten shows. */
void *room(world_t *w, size_t size)
{
    void *p = NULL;

    if (w->count == BUFFERS_MAX)
        abort();
    must(w->device->ops->allocate(w->device, size, &p));
    must(w->device->ops->fill(w->device, COTERIE_STREAM_COMPUTE, p, POISON,
                              size));
    w->buffers[w->count++] = p;
    return p;
}

void *upload(world_t *w, const void *data, size_t size)
{
    void *p = room(w, size);

    must(w->device->ops->copy(w->device, COTERIE_STREAM_COMPUTE, p, data,
                              size));
    return p;
}

void *download(world_t *w, const void *data, size_t size)
{
    void *p = malloc(size > 0 ? size : 1);

    must(w->device->ops->copy(w->device, COTERIE_STREAM_COMPUTE, p, data,
                              size));
    must(w->device->ops->wait(w->device, COTERIE_STREAM_COMPUTE));
    return p;
}

void world_end(world_t *w)
{
    must(w->device->ops->wait(w->device, COTERIE_STREAM_COMPUTE));
    while (w->count > 0)
        w->device->ops->release(w->device, w->buffers[--w->count]);
}

float fraction(void)
{
    return (float)draw(1 << 16) / (1 << 15) - 1;
}

/* Within a share of the largest. */
bool near(const char *what, const float *got, const float *want,
                 size_t count, float tolerance)
{
    float largest = 0;

    for (size_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= tolerance * largest)) {
            fprintf(stderr, "%s: element %zu of %zu is %g, not %g\n", what, i,
                    count, (double)got[i], (double)want[i]);
            return false;
        }
    return true;
}

bool same(const char *what, const void *got, const void *want,
                 size_t size)
{
    if (memcmp(got, want, size) == 0)
        return true;
    fprintf(stderr, "%s: differs\n", what);
    return false;
}
