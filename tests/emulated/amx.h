#ifndef TESTS_EMULATED_AMX_H
#define TESTS_EMULATED_AMX_H
/* The tiles of kernels/cpu/amx.c, on emulated instructions. */
#include "kernels/cpu/panel.h"

extern const coterie_panel_table_t emulated_amx_bf16, emulated_amx_int8;

#endif
