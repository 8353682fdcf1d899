#ifndef COTERIE_TOOLS_MODES_H
#define COTERIE_TOOLS_MODES_H
/* Modes, groups and file formats as the command line says them. */
#include <coterie/coterie.h>

/* By coterie_mode_t. */
extern const char *const mode_names[];

/* "auto", then by coterie_group_t + 1. */
extern const char *const group_choices[];

/* By coterie_placement_format_t. */
extern const char *const format_names[];

/* By coterie_compute_t. */
extern const char *const compute_names[];

/* By coterie_wire_t. */
extern const char *const wire_names[];

/* By coterie_policy_kind_t. */
extern const char *const policy_names[];

/* By coterie_polling_t. */
extern const char *const polling_names[];

/* The group a choice stands for. By itself, the command shares attention's
 * cache only where the mode needs it: two-phase keeps tokens at home. */
coterie_group_t group_choose(uint32_t choice, coterie_mode_t mode);

#endif
