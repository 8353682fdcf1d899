coterieinclude_HEADERS += include/coterie/ffn.h include/coterie/kernels.h \
	include/coterie/pool.h include/coterie/wire.h
libcoterie_la_SOURCES += kernels/machine.c kernels/pool.c kernels/pool.h \
	kernels/cpu/cpu.h kernels/cpu/dense.c kernels/cpu/expert.c \
	kernels/cpu/expert.h kernels/cpu/expert_pool.c \
	kernels/cpu/isa.c kernels/cpu/panel.h kernels/cpu/panel_pack.c \
	kernels/cpu/panel_product.c kernels/cpu/panels.c \
	kernels/cpu/product.c kernels/cpu/router.c \
	kernels/cpu/wire.c kernels/cpu/wire_rows.h
# Hundreds of functions that are inlined whole: to know where each variable is
# at every instruction would take the compiler three times as long.
noinst_LTLIBRARIES += libcoterie-tiles.la
libcoterie_tiles_la_SOURCES = kernels/cpu/activation.h kernels/cpu/amx.c \
	kernels/cpu/avx2.c kernels/cpu/avx512.c kernels/cpu/avx512_bf16.c \
	kernels/cpu/avx512_vnni.c kernels/cpu/panel_read.h \
	kernels/cpu/panel_tables.h kernels/cpu/panel_tile.h \
	kernels/cpu/panel_words.h kernels/cpu/portable.c kernels/cpu/tile.h \
	kernels/cpu/vec512.h
libcoterie_tiles_la_CFLAGS = $(AM_CFLAGS) $(TILES_CFLAGS)
libcoterie_la_LIBADD += libcoterie-tiles.la
