#include "config.h"

#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#define TARGET __attribute__((target( \
    "avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni")))

#include "kernels/cpu/vec512.h"

/* Not the intrinsic: compilers give what it returns another register, of which
 * there are not twice as many. */
VEC raw_t raw_dot(raw_t sum, raw_t weights, const char *word)
{
    __asm__("vpdpbusd %2, %1, %0"
            : "+v"(sum)
            : "v"(weights), "v"(raw_set_from(word)));
    return sum;
}

#define PANEL_DOT raw_dot
#define TABLE_INT8 coterie_table_avx512_vnni_int8
#include "kernels/cpu/panel_tables.h"
#endif
