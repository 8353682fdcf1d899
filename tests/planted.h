#ifndef COTERIE_TESTS_PLANTED_H
#define COTERIE_TESTS_PLANTED_H
/* Traces whose experts follow a rule, of a model small enough for tests. */
#include <coterie/trace.h>

enum {
    PLANTED_LAYERS = 4,
    PLANTED_EXPERTS = 16,
    PLANTED_K = 2,
    PLANTED_SETS_MAX = 3000 * PLANTED_LAYERS
};

typedef enum planted_rule {
    PLANTED_RANDOM,    /* any two, one as likely as another */
    PLANTED_POPULAR,   /* the lower the number, the likelier; no affinity */
    PLANTED_FOLLOWING, /* e is followed by e + 3, but for one in ten */
    PLANTED_PHASES     /* 40 tokens at a time prefer the same few experts */
} planted_rule_t;

/* A view of one sequence of `tokens` (at most 3000); valid until the next. */
coterie_trace_view_t planted(planted_rule_t rule, uint64_t tokens);

/* Writes it as an .npy for the command. */
void planted_put(const char *name, planted_rule_t rule, uint64_t tokens);

#endif
