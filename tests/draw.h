#ifndef COTERIE_TESTS_DRAW_H
#define COTERIE_TESTS_DRAW_H
/* Numbers that look random and are the same in every run. */
#include <stdint.h>

static inline uint32_t draw(uint32_t below)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 20) % below);
}

#endif
