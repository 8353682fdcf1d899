coterieinclude_HEADERS += include/coterie/placement.h \
	include/coterie/simulate.h include/coterie/trace.h
libcoterie_la_SOURCES += placement/placement.c placement/placement.h \
	placement/route.c placement/wire.h
libcoterie_la_SOURCES += placement/recorder.c placement/summary.c \
	placement/trace.c placement/trace_csv.c placement/trace_csv.h \
	placement/trace_object.h placement/trace_read.c placement/trace_write.c

if HAVE_GLPK
coterieinclude_HEADERS += include/coterie/place.h
pkgconfig_DATA += coterie-place.pc
endif
