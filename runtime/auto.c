/* Which mode a decode step uses, where the caller leaves it to us: each that
 * the group allows is tried a few times per class of batch size, in turns, and
 * that of the least median stays until the next trials. All ranks learn the
 * same times, so they decide alike. */
#include "config.h"

#include <string.h>

#include "runtime/session.h"

enum { RECHECK_STEPS = 256 };

static const coterie_mode_t modes[] = {
    COTERIE_MODE_TWO_PHASE, COTERIE_MODE_OWNER, COTERIE_MODE_FORWARD};
enum { CANDIDATES = sizeof(modes) / sizeof(modes[0]) };

static bool allowed(const coterie_session_t *s, coterie_mode_t mode);
static coterie_status_t learn(coterie_session_t *s);
static coterie_class_t *class_of_batch(coterie_session_t *s);
static coterie_mode_t least_tried(const coterie_session_t *s,
                                  const coterie_class_t *class);
static coterie_mode_t quickest(const coterie_session_t *s,
                               const coterie_class_t *class);

coterie_status_t coterie_auto_choose(coterie_session_t *s)
{
    coterie_status_t status = COTERIE_OK;
    coterie_mode_t asked = s->options.mode;
    coterie_class_t *class;

    if (asked == COTERIE_MODE_AUTO && s->rank_count == 1)
        asked = COTERIE_MODE_TWO_PHASE; /* all are the same for one */
    if (asked != COTERIE_MODE_AUTO) {
        s->mode = allowed(s, asked) ? asked : COTERIE_MODE_TWO_PHASE;
        return COTERIE_OK;
    }
    if (s->chooser.trial != NULL)
        status = learn(s);
    if (status != COTERIE_OK)
        return status;
    class = class_of_batch(s);
    s->mode = least_tried(s, class);
    if (class->tries[s->mode] < COTERIE_TRIES) {
        s->chooser.trial = class;
        class->tries[s->mode]++;
    } else {
        s->mode = quickest(s, class);
        if (++class->steps == RECHECK_STEPS)
            memset(class, 0, sizeof(*class));
    }
    s->chooser.start_ns = coterie_now_ns();
    return COTERIE_OK;
}

void coterie_auto_step_ends(coterie_session_t *s)
{
    if (s->chooser.trial == NULL || s->phase != COTERIE_PHASE_DECODE)
        return;
    s->chooser.took_ns = coterie_now_ns() - s->chooser.start_ns;
    s->chooser.tried = s->mode;
}

static bool allowed(const coterie_session_t *s, coterie_mode_t mode)
{
    coterie_group_t group = (coterie_group_t)s->options.group;

    switch (mode) {
    case COTERIE_MODE_OWNER:
        return group == COTERIE_GROUP_ALL || group == COTERIE_GROUP_NODE;
    case COTERIE_MODE_FORWARD:
        return group == COTERIE_GROUP_ACROSS ||
               (group == COTERIE_GROUP_ALL &&
                (s->options.predicted_k == 0 ||
                 s->rank_count <= COTERIE_SET_BITS));
    default:
        return true;
    }
}

/* A step is as slow as its slowest rank. */
static coterie_status_t learn(coterie_session_t *s)
{
    coterie_auto_t *chooser = &s->chooser;
    uint64_t *ns = chooser->trial->ns[chooser->tried];
    uint32_t at = chooser->trial->tries[chooser->tried] - 1;
    uint64_t slowest = 0;
    coterie_status_t status = coterie_transport_allgather(
        s->transport, &chooser->took_ns, sizeof(chooser->took_ns),
        chooser->all_ns);

    if (status != COTERIE_OK)
        return status;
    for (uint32_t r = 0; r < s->rank_count; r++)
        if (chooser->all_ns[r] > slowest)
            slowest = chooser->all_ns[r];
    for (; at > 0 && ns[at - 1] > slowest; at--)
        ns[at] = ns[at - 1];
    ns[at] = slowest;
    chooser->trial = NULL;
    return COTERIE_OK;
}

/* Only a group of all ranks knows of every sequence that goes on; others have
 * one class, since all ranks must choose alike. */
static coterie_class_t *class_of_batch(coterie_session_t *s)
{
    uint32_t rows = s->gather.token_count, class = 0;

    if (s->options.group != COTERIE_GROUP_ALL)
        return &s->chooser.classes[0];
    while (rows >> class != 0)
        class++;
    return &s->chooser.classes[class];
}

static coterie_mode_t least_tried(const coterie_session_t *s,
                                  const coterie_class_t *class)
{
    coterie_mode_t least = COTERIE_MODE_TWO_PHASE;

    for (uint32_t i = 0; i < CANDIDATES; i++)
        if (allowed(s, modes[i]) &&
            class->tries[modes[i]] < class->tries[least])
            least = modes[i];
    return least;
}

static coterie_mode_t quickest(const coterie_session_t *s,
                               const coterie_class_t *class)
{
    coterie_mode_t best = COTERIE_MODE_TWO_PHASE;

    for (uint32_t i = 0; i < CANDIDATES; i++)
        if (allowed(s, modes[i]) && class->ns[modes[i]][COTERIE_TRIES / 2] <
                                        class->ns[best][COTERIE_TRIES / 2])
            best = modes[i];
    return best;
}
